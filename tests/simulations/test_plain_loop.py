"""Whole runs against plain loops of PyTorch and NumPy that use none of melfed's training, optimisers and aggregation.

The loops see the same images in the same order: order and pixels come from melfed (`melfed.common.seeds`, `to_input`).
All that follows is written out here: loss, learning rate of each step, local optimiser, the pull of FedProx, and what
the server makes of the models. Both sides are computed in single precision; they are apart by less than `TOLERANCE`
of the way from where both began. Seen: nothing at all in the baselines, 4e-6 in federations, whose clinics run kernels
that add in another order and whose server, here, is one of double precision.
"""

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from melfed.client.data.clinic_data import ClinicData, load_part
from melfed.common.data.augmentation import to_input
from melfed.common.data.dataset import Images
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import Classifier, trainable_tensors
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import FederationSpec, StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.aggregation.mean import RoundMean
from melfed.server.runs.folder import RunFolder
from melfed.simulations.baselines import Baseline
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study
from tests.in_process import InProcessGrid, SilentObserver, conduct

TOLERANCE = 1e-5
ROUNDS, BATCH, RATE, WARMUP, WEIGHT = 4, 8, 0.1, 5, 2.0

Clinics = Sequence[ClinicData]


@pytest.fixture(scope="module")
def clinics(phantom_clinics: VirtualClinics) -> Clinics:
    return phantom_clinics.clinics


def a_study(optimizer: str = "sgd", schedule: str = "constant", **federation: object) -> StudyProtocol:
    training = {
        "optimizer": optimizer,
        "schedule": schedule,
        "learning_rate": RATE if optimizer == "sgd" else RATE / 50,
        "batch_size": BATCH,
        "warmup_steps": WARMUP,
        "weight_decay": 0.01,
        "gradient_norm": 2.0,
        "positive_weight": WEIGHT,
    }
    return small_study(training=training, model={"dropout": 0.0}, federation={"rounds": ROUNDS, **federation})


# The loop at a clinic.


def rate_of(schedule: str, peak: float, step: int, steps: int, position: float) -> float:
    """The rate of step `step` (0-based) of the run, at a position in [0, 1] of it."""
    factor = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * position)) / 2}[schedule]
    return peak * factor * min(1.0, (step + 1) / (WARMUP + 1))


def optimizer_of(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=0.01)
    return torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.01)


def train(
    model: Classifier, images: Images, name: str, number: int, study: StudyProtocol, optimizer: torch.optim.Optimizer
) -> None:
    """One round of one pass; `number` is 1-based."""
    spec, prox = study.training, study.federation.algorithm == "fedprox" and study.federation.mode == "federated"
    origin = [parameter.detach().clone() for parameter in model.parameters()]
    order = np.random.default_rng(seed_for(study.seed, "order", name, number - 1)).permutation(len(images))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    normalisation = BACKBONES["simple_cnn"]
    model.train()
    for index, batch in enumerate(batches):
        inputs = to_input(images.pixels(batch), normalisation.mean, normalisation.std, None)
        targets = torch.from_numpy(images.targets[batch])
        weight = torch.tensor(WEIGHT)
        loss = F.binary_cross_entropy_with_logits(model(inputs), targets, pos_weight=weight, reduction="sum")
        optimizer.zero_grad()
        (loss / len(batch)).backward()
        if prox:
            for parameter, first in zip(model.parameters(), origin, strict=True):
                parameter.grad += study.federation.proximal_mu * (parameter.detach() - first)
        nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_norm)
        position = (number - 1 + (index + 0.5) / len(batches)) / ROUNDS
        for group in optimizer.param_groups:
            group["lr"] = rate_of(
                spec.schedule, spec.learning_rate, (number - 1) * len(batches) + index, len(batches), position
            )
        optimizer.step()


# What the server makes of the clinics' models.

Update = dict[str, np.ndarray]


def weighted(updates: Sequence[Update], images: Sequence[int]) -> Update:
    return {
        name: sum(update[name] * count for update, count in zip(updates, images, strict=True)) / sum(images)
        for name in updates[0]
    }


def trimmed(updates: Sequence[Update], _images: Sequence[int]) -> Update:
    """Of three, or four, the smallest and the largest value are left out."""
    return {
        name: np.sort(np.stack([update[name] for update in updates]), axis=0)[1:-1].mean(axis=0) for name in updates[0]
    }


def median(updates: Sequence[Update], _images: Sequence[int]) -> Update:
    return {name: np.median(np.stack([update[name] for update in updates]), axis=0) for name in updates[0]}


def by_trust(updates: Sequence[Update], false: int) -> list[int]:
    flat = [np.concatenate([update[name].ravel() for name in sorted(update)]) for update in updates]
    scores = []
    for one in flat:
        distances = sorted(float(((one - other) ** 2).sum()) for other in flat if other is not one)
        scores.append(sum(distances[: max(1, len(flat) - false - 2)]))
    return sorted(range(len(flat)), key=scores.__getitem__)


def krum(updates: Sequence[Update], _images: Sequence[int], false: int = 0) -> Update:
    return updates[by_trust(updates, false)[0]]


def multi_krum(updates: Sequence[Update], _images: Sequence[int], false: int = 0) -> Update:
    kept = [updates[index] for index in by_trust(updates, false)[: len(updates) - false]]
    return {name: sum(update[name] for update in kept) / len(kept) for name in kept[0]}


MEANS: dict[str, Callable[..., Update]] = {
    "none": weighted,
    "trimmed_mean": trimmed,
    "median": median,
    "krum": krum,
    "multi_krum": multi_krum,
}


class Server:
    """The server's optimiser as its papers have it: Hsu et al. for fedavgm, Reddi et al. for the others."""

    def __init__(self, algorithm: str, rate: float, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> None:
        self.algorithm, self.rate, self.beta1, self.beta2, self.tau = algorithm, rate, beta1, beta2, tau
        self.m: Update = {}
        self.v: Update = {}

    def step(self, model: Update, mean: Update) -> Update:
        if self.algorithm in ("fedavg", "fedprox"):
            return mean
        after = {}
        for name in model:
            delta = mean[name] - model[name]
            m = self.m.get(name, np.zeros_like(delta))
            v = self.v.get(name, np.full_like(delta, self.tau**2))
            if self.algorithm == "fedavgm":
                m = self.beta1 * m + delta
                after[name] = model[name] + self.rate * m
            else:
                m = self.beta1 * m + (1 - self.beta1) * delta
                if self.algorithm == "fedadam":
                    v = self.beta2 * v + (1 - self.beta2) * delta**2
                else:
                    v = v - (1 - self.beta2) * delta**2 * np.sign(v - delta**2)
                after[name] = model[name] + self.rate * m / (np.sqrt(v) + self.tau)
            self.m[name], self.v[name] = m, v
        return after


def values(model: Classifier) -> Update:
    return {name: parameter.detach().numpy().astype(np.float64) for name, parameter in model.named_parameters()}


def loaded(model: Classifier, state: Update) -> Classifier:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(state[name]))
    return model


def federation_by_hand(study: StudyProtocol, clinics: Clinics, rate: float) -> Update:
    clinics = sorted(clinics, key=lambda clinic: clinic.name)  # a tie of Krum's goes to the first name
    state = values(small_model(study))
    server = Server(study.federation.algorithm, rate)
    for number in range(1, ROUNDS + 1):
        updates = []
        for clinic in clinics:
            model = loaded(small_model(study), state)
            images = clinic.load("train")
            train(model, images, clinic.name, number, study, optimizer_of(model, study.training.optimizer))
            updates.append(values(model))
        sizes = [len(clinic.train) for clinic in clinics]
        state = server.step(state, MEANS[study.federation.robust](updates, sizes))
    return state


def federation(study: StudyProtocol, clinics: Clinics, path: Path) -> Tensors:
    folder = RunFolder.create(path, study)
    grid = InProcessGrid(Simulation(study, tuple(clinics), folder.ledgers))
    return conduct(grid, study, folder, trainable_tensors(small_model(study)), SilentObserver()).models[""]


def assert_close(found: Tensors, expected: Update, start: Update) -> None:
    """Compare how far two runs are apart with how far they have come from where both began."""
    assert found.keys() == expected.keys()

    def length(one: Tensors | Update, two: Update) -> float:
        return math.sqrt(sum(float(((one[name].astype(np.float64) - two[name]) ** 2).sum()) for name in two))

    assert length(expected, start) > 0.05, "a run that moves nothing shows nothing"
    assert length(found, expected) < TOLERANCE * length(expected, start)


@pytest.mark.parametrize(
    ("algorithm", "rate"), [("fedavg", 1.0), ("fedprox", 1.0), ("fedavgm", 1.0), ("fedadam", 0.01), ("fedyogi", 0.01)]
)
def test_a_federated_run_is_a_plain_loop(algorithm: str, rate: float, clinics: Clinics, tmp_path: Path) -> None:
    study = a_study(algorithm=algorithm, proximal_mu=0.5)
    expected = federation_by_hand(study, clinics, rate)
    assert_close(federation(study, clinics, tmp_path / "run"), expected, values(small_model(study)))


@pytest.mark.parametrize("robust", ["trimmed_mean", "median", "krum", "multi_krum"])
def test_a_federated_run_with_a_robust_mean_is_a_plain_loop(robust: str, clinics: Clinics, tmp_path: Path) -> None:
    study = a_study(robust=robust, robust_byzantine=0)
    expected = federation_by_hand(study, clinics, 1.0)
    assert_close(federation(study, clinics, tmp_path / "run"), expected, values(small_model(study)))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("mode", ["federated", "central", "local"])
def test_a_run_of_each_mode_is_a_plain_loop(
    mode: str, optimizer: str, schedule: str, clinics: Clinics, tmp_path: Path
) -> None:
    study = a_study(optimizer, schedule, mode=mode)
    start = values(small_model(study))
    if mode == "federated":
        expected = federation_by_hand(study, clinics, 1.0)
        assert_close(federation(study, clinics, tmp_path / "run"), expected, start)
        return
    outcome = Baseline(study, tuple(clinics), small_model(study), CPU).train(
        RunFolder.create(tmp_path / "run", study), SilentObserver()
    )
    learners = {"": list(clinics)} if mode == "central" else {clinic.name: [clinic] for clinic in clinics}
    assert outcome.models.keys() == learners.keys()
    for name, own in learners.items():
        model = copy.deepcopy(small_model(study))
        kept, images = optimizer_of(model, optimizer), load_part(own, "train")
        for number in range(1, ROUNDS + 1):
            train(model, images, name or "all", number, study, kept)
        assert_close(outcome.models[name], values(model), start)


@pytest.mark.parametrize(("robust", "false"), [(kind, 0) for kind in MEANS] + [("krum", 2), ("multi_krum", 2)])
def test_means_of_many_updates_are_those_of_the_loop(robust: str, false: int) -> None:
    rng = np.random.default_rng(4)
    shapes = {"w": (5, 4), "b": (3,)}
    updates = [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(9)
    ]
    for update in updates[:2]:
        update["w"] *= 50
    images = [int(number) for number in rng.integers(1, 1000, 9)]
    mean = RoundMean(FederationSpec(robust=robust, robust_byzantine=false, robust_trim=0.1), updates[0], sum(images))
    for number, update in enumerate(updates):
        mean.add(f"clinic {number}", update, images[number])
    exact = [{name: tensor.astype(np.float64) for name, tensor in update.items()} for update in updates]
    expected = MEANS[robust](exact, images, **({"false": false} if "krum" in robust else {}))
    for name, tensor in mean.mean().items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-6, atol=1e-6)
