"""Each algorithm through the front door: what travels, what stays, what is judged, and that a kill changes nothing."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from melfed.client.privacy.plan import plan_of
from melfed.common.errors import RunError, StudyError
from melfed.common.messages import unpack
from melfed.common.model import classifier
from melfed.common.model.classifier import SimpleCNN
from melfed.common.study.build import build_study_classifier, local_names, shared_tensors
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.server.results.evaluate import load_model
from melfed.server.runs.checkpoints import last_checkpoint
from melfed.server.runs.folder import RunFolder
from melfed.simulations import run as run_module
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from melfed.simulations.run import simulate
from tests.in_process import InProcessGrid, SilentObserver, conduct, federate
from tests.simulations.test_run import Interrupted, InterruptedAfter

ALGORITHMS = ["scaffold", "fednova", "fedbn", "ditto"]
PRIVATE = {"unit": "image", "recipe": "manual", "steps": 2, "noise_multiplier": 0.0, "evaluation": "public"}


def study_of(algorithm: str, rounds: int = 2, **sections: object) -> StudyProtocol:
    content = {
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False, "dropout": 0.0},
        "training": {
            **{"batch_size": 16, "augment": False, "warmup_steps": 0},
            **{"learning_rate": 0.02, "optimizer": "sgd", "momentum": 0.5},
        },
        "federation": {"rounds": rounds, "algorithm": algorithm},
    }
    return StudyProtocol.model_validate_json(json.dumps(content | sections))


@pytest.fixture
def virtual(phantom: Path, tmp_path: Path) -> VirtualClinics:
    return divide(study_of("fedavg"), phantom, tmp_path / "cache")


class Normalised(SimpleCNN):
    """The small network, with one normalisation layer: those that have some are slow to train."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 11)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor = self.pool(self.norm(self.features(images))).flatten(1)
        return normalised


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    monkeypatch.setattr(classifier, "SimpleCNN", Normalised)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    algorithm: str, virtual: VirtualClinics, tmp_path: Path
) -> None:
    study = study_of(algorithm)
    whole = simulate(study, virtual, tmp_path / "whole", SilentObserver())
    with pytest.raises(Interrupted):
        simulate(study, virtual, tmp_path / "cut", InterruptedAfter(1))
    again = simulate(study, virtual, tmp_path / "cut", SilentObserver(), resume=True)
    assert again.test == whole.test
    assert [row.train_loss for row in again.rounds] == [row.train_loss for row in whole.rounds]
    models = sorted(path.name for path in (tmp_path / "whole").glob("model*.safetensors"))
    own = [f"model-{clinic.name}.safetensors" for clinic in virtual.clinics] if algorithm in {"fedbn", "ditto"} else []
    assert models == sorted(["model.safetensors", *own])
    for name in models:
        one, other = (load_tensors(tmp_path / run / name)[0] for run in ("whole", "cut"))
        assert all((one[key] == other[key]).all() for key in one), name
    states = sorted((tmp_path / "whole" / "states").rglob("*.safetensors"))
    assert len(states) == (0 if algorithm == "fednova" else 2 * len(virtual.clinics))
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in states)


def test_what_is_asked_again_after_a_round_is_answered_from_where_it_began(
    virtual: VirtualClinics, tmp_path: Path
) -> None:
    """The newest checkpoint is gone, and the clinics have gone on: control variates go back with the model."""
    study = study_of("scaffold")
    folder = RunFolder.create(tmp_path / "run", study)
    simulation = Simulation(study, virtual.clinics, folder.ledgers)
    initial = shared_tensors(study, build_study_classifier(study))
    first = conduct(InProcessGrid(simulation), study, folder, initial).models[""]
    (folder.checkpoints / "round-000002.safetensors").unlink()
    again = conduct(InProcessGrid(simulation), study, folder, initial).models[""]
    assert all((again[name] == tensor).all() for name, tensor in first.items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_leaves_a_clinic_but_the_global_model_s_tensors(
    algorithm: str, virtual: VirtualClinics, tmp_path: Path
) -> None:
    study = study_of(algorithm)
    folder = RunFolder.create(tmp_path / "run", study)
    model = build_study_classifier(study)
    initial = shared_tensors(study, model)
    grid = Watched(Simulation(study, virtual.clinics, folder.ledgers))
    conduct(grid, study, folder, initial)
    assert grid.came
    assert all(names == initial.keys() for names in grid.came)
    controls = {f"control/{name}" for name in initial} if algorithm == "scaffold" else set()
    assert all(names == initial.keys() | controls for names in grid.went)
    assert bool(local_names(study, model)) == (algorithm == "fedbn")
    state = last_checkpoint(folder.checkpoints, study.digest)
    assert state is not None
    assert state.optimizer.keys() == controls


class Watched(InProcessGrid):
    """Writes down the names of the tensors of training requests and replies."""

    def push_messages(self, messages):
        self.went = [*getattr(self, "went", [])]
        self.came = [*getattr(self, "came", [])]
        messages = list(messages)
        pushed = super().push_messages(messages)
        for message, identity in zip(messages, pushed, strict=True):
            if message.metadata.message_type == "train":
                self.went.append(unpack("tensors", message.content.array_records["tensors"]).keys())
                reply = self.replies[identity]
                self.came.append(unpack("tensors", reply.content.array_records["tensors"]).keys())
        return pushed


def test_the_clinics_own_models_differ_where_they_may(virtual: VirtualClinics, tmp_path: Path) -> None:
    study = study_of("fedbn")
    simulate(study, virtual, tmp_path / "run", SilentObserver())
    folder = RunFolder.open(tmp_path / "run")
    own = {name: load_tensors(path)[0] for name, path in folder.models_of_clinics().items()}
    ours = load_tensors(folder.model)[0]
    local = local_names(study, build_study_classifier(study))
    one, other, *_ = own.values()
    assert {name for name in ours if (one[name] != other[name]).any()} == local
    assert all((one[name] == ours[name]).all() for name in ours.keys() - local)
    _, model = load_model(folder, virtual.clinics[0].name)
    found = dict(model.named_parameters())
    assert all(np.array_equal(found[n].detach().numpy(), own[virtual.clinics[0].name][n]) for n in local)
    with pytest.raises(RunError, match="no model of clinic 'elsewhere'"):
        load_model(folder, "elsewhere")
    load_model(folder)
    assert "each clinic&#39;s own model" in folder.report.read_text()


def test_a_private_ditto_is_charged_for_both_models(virtual: VirtualClinics, tmp_path: Path) -> None:
    training = {"optimizer": "sgd", "learning_rate": 0.5, "warmup_steps": 0, "augment": False}
    study = study_of("ditto", 2, privacy=PRIVATE, training=training)
    assert plan_of(study).training.steps == 4
    summary = simulate(study, virtual, tmp_path / "run", SilentObserver())
    assert summary.privacy is not None
    assert summary.privacy.steps == 2 * 4
    told = [row for row in summary.privacy.released if "own model" in row.quantity]
    assert [row.protection for row in told] == ["nothing leaves"]
    ledger = next(iter(sorted(RunFolder.open(tmp_path / "run").ledgers.glob("*.jsonl"))))
    charged = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert {row["steps"] for row in charged if row.get("purpose") == "training"} == {4}


@pytest.mark.parametrize("algorithm", ["scaffold", "fedbn"])
def test_in_a_private_study_what_is_kept_is_made_of_what_was_paid_for(
    algorithm: str, virtual: VirtualClinics, tmp_path: Path
) -> None:
    """The answer that the guard keeps has its noise; state follows from it, and from what came."""
    training = {"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.0, "warmup_steps": 0, "augment": False}
    study = study_of(algorithm, 1, privacy=PRIVATE, training=training)
    simulate(study, virtual, tmp_path / "run", SilentObserver())
    folder = RunFolder.open(tmp_path / "run")
    start = shared_tensors(study, build_study_classifier(study))
    for clinic in virtual.clinics:
        (kept,) = (load_tensors(path)[0] for path in (folder.path / "states" / clinic.name).rglob("*.safetensors"))
        (paid,) = (load_tensors(path)[0] for path in folder.ledgers.glob(f"{clinic.name}.training-*.safetensors"))
        for name, tensor in kept.items():
            # Two steps of 0.5; the control variates were 0.
            expected = paid[name] if algorithm == "fedbn" else (start[name].astype(float) - paid[name]) / 1.0
            np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("algorithm", "sections", "said"),
    [
        ("scaffold", {"training": {"optimizer": "adamw"}}, "state training.optimizer sgd"),
        ("scaffold", {"federation": {"robust": "median"}}, "leave out one"),
        ("scaffold", {"federation": {"compression": "int8"}}, "leave out federation.clip_update_norm"),
        ("fednova", {"privacy": PRIVATE}, "no effect in a private study"),
        ("fedbn", {"model": {"pretrained": True, "train": "head"}}, "take affine or full"),
        ("ditto", {"federation": {"stop": {}}}, "could not bring back"),
        (
            "ditto",
            {
                "federation": {"start": "one_round"},
                "model": {"pretrained": True, "neck": 4, "train": "head"},
                "privacy": {**PRIVATE, "evaluation": "noised"},
            },
            "shares ε among moments and the steps of one",
        ),
    ],
)
def test_what_is_not_sound_is_refused_in_one_line(algorithm: str, sections: dict[str, object], said: str) -> None:
    content = study_of(algorithm).model_dump(mode="json")
    for name, changes in sections.items():
        content[name] = {**(content[name] or {}), **changes}
    with pytest.raises(ValidationError, match=said):
        StudyProtocol.model_validate_json(json.dumps(content))


def test_a_network_without_normalisation_layers_has_nothing_local(
    virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "SimpleCNN", SimpleCNN)
    study = study_of("fedbn")
    with pytest.raises(StudyError, match="none of simple_cnn learns"):
        simulate(study, virtual, tmp_path / "run", SilentObserver())
