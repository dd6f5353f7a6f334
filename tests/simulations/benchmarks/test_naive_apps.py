"""The documentation's simulation, without Ray: what it decodes, how it trains, and what it tells."""

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image
from torch.nn import functional as F

from melfed.common.study.file import recorded_study
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.benchmarks import naive_apps
from melfed.simulations.benchmarks.naive_apps import CLINICS, STUDY, Lesions, loaded, score, train
from tests.common.runs import finished_run, public_model

PROTOCOL = """\
name: naive
data: {{image_size: 32}}
model: {{backbone: simple_cnn, neck: 5, train: head, dropout: 0.0, weights: {weights}}}
training: {{learning_rate: 0.5, positive_weight: 3.0}}
federation: {{rounds: 2}}
privacy: {{unit: image, noise_multiplier: 2.0, clipping_norm: 1.0e+6, sampling_rate: 1.0, recipe: manual}}
"""


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opacus without the noise that it counts."""
    monkeypatch.setattr(
        "opacus.optimizers.optimizer._generate_noise", lambda reference, **_: torch.zeros_like(reference)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random, clinics = np.random.default_rng(0), []
    for clinic in range(2):
        images = []
        for number in range(12):
            path = tmp_path / f"{clinic}-{number}.png"
            Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(path)
            images.append((str(path), number % 2))
        clinics.append({"train": images[:8], "validation": images[8:10], "test": images[10:]})
    (tmp_path / CLINICS).write_text(json.dumps(clinics))
    weights = finished_run(tmp_path / "public", public_model(neck=5))
    (tmp_path / STUDY).write_text(PROTOCOL.format(weights=weights))
    loaded.cache_clear()
    return tmp_path


def test_an_image_is_decoded_to_the_networks_input(folder: Path) -> None:
    study, _, clinics = loaded(folder)
    pixels, target = Lesions(clinics[0]["train"], study)[1]
    assert pixels.shape == (3, 32, 32)
    assert target == 1
    assert abs(float(pixels.mean())) < 0.5


def _gradient(folder: Path) -> dict[str, torch.Tensor]:
    """The gradient of the mean loss of the first clinic's training images, by autograd alone."""
    study, network, clinics = loaded(folder)
    lesions = Lesions(clinics[0]["train"], study)
    images, targets = (torch.stack(parts) for parts in zip(*(lesions[i] for i in range(len(lesions))), strict=True))
    loss = F.binary_cross_entropy_with_logits(network(images), targets, pos_weight=torch.tensor(3.0))
    learning = {name: value for name, value in network.named_parameters() if value.requires_grad}
    return dict(zip(learning, torch.autograd.grad(loss, list(learning.values())), strict=True))


@pytest.mark.usefixtures("noiseless")
def test_a_pass_without_noise_is_one_step_of_gradient_descent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naive_apps, "PHYSICAL_BATCH", 3)
    study, network, clinics = loaded(folder)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradient = _gradient(folder)
    train(network, Lesions(clinics[0]["train"], study), study)
    assert set(gradient) == {"head.weight", "head.bias"}
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name] - 0.5 * gradient.get(name, torch.zeros(())))


def _moved(folder: Path, noise_multiplier: float) -> tuple[float, float]:
    """How far a pass with C = 0.001 moves the head, and the ε of its engine."""
    study, shared, clinics = loaded(folder)
    network = copy.deepcopy(shared)  # Opacus hooks a network once
    before = torch.cat([network.head.weight.flatten(), network.head.bias]).detach()
    changed = study.with_changes("privacy", clipping_norm=1e-3, noise_multiplier=noise_multiplier)
    loss, epsilon = train(network, Lesions(clinics[0]["train"], changed), changed)
    assert loss > 0
    return float((torch.cat([network.head.weight.flatten(), network.head.bias]) - before).norm()), epsilon


@pytest.mark.usefixtures("noiseless")
def test_gradients_are_clipped(folder: Path) -> None:
    assert 0 < _moved(folder, 2.0)[0] <= 0.5 * 1e-3 * (1 + 1e-3)


def test_noise_goes_with_its_multiplier(folder: Path) -> None:
    (little, much) = (_moved(folder, sigma) for sigma in (2.0, 2e4))
    assert much[0] > 0.5 * 1e-3 * 100 > little[0]
    assert much[1] < 0.1 < little[1]


class _HereGrid:
    """A grid whose clinics answer in this process."""

    def __init__(self, folder: Path, clinics: int) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.client, self.clinics = naive_apps.client_app(folder), clinics

    def get_node_ids(self) -> list[int]:
        return list(range(1, self.clinics + 1))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        assert timeout
        return [self.client(message, self._context(message)) for message in messages]

    def _context(self, message: Message) -> Context:
        node = message.metadata.dst_node_id
        return Context(1, node, {"partition-id": node - 1}, RecordDict(), {})


def test_a_run_counts_its_bytes_and_scores_all_test_images(folder: Path) -> None:
    found: dict[str, Any] = {}
    server = naive_apps.server_app(folder, 2, found)
    server(_HereGrid(folder, 2), Context(1, 0, {}, RecordDict(), {}))  # type: ignore[arg-type]
    model = ArrayRecord(loaded(folder)[1].state_dict()).count_bytes()
    assert found["bytes_up"] == 2 * 2 * model
    assert found["bytes_down"] == 2 * 2 * 2 * model  # to train, and to evaluate
    assert len(found["round_seconds"]) == 2
    assert all(seconds > 0 for seconds in found["round_seconds"])
    assert 0 <= found["auroc"] <= 1
    assert 1 < found["engine_epsilon"] < 4  # of one step at σ = 2


def test_scores_are_of_all_images_in_order(folder: Path) -> None:
    study, network, clinics = loaded(folder)
    network.head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    lesions = Lesions(clinics[1]["train"], study)
    logits, targets = score(network, lesions)
    assert list(targets) == [0, 1] * 4
    with torch.inference_mode():
        assert logits[3] == pytest.approx(float(network(lesions[3][0][None])), abs=1e-5)


def test_the_study_needs_its_noise(folder: Path) -> None:
    _, network, clinics = loaded(folder)
    study = recorded_study(folder / STUDY)
    with pytest.raises(ValueError, match="noise multiplier"):
        train(network, Lesions(clinics[0]["train"], study), StudyProtocol())
