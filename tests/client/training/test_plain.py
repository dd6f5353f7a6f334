"""A clinic's training against plain PyTorch: the same steps, whatever the micro-batches, and again after a resume."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import melfed.common.model.inference
from melfed.client.training.plain import Trainer, round_visits
from melfed.common.data.augmentation import to_input
from melfed.common.data.dataset import Images
from melfed.common.data.metadata import encode_metadata
from melfed.common.errors import StudyError
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import schedule_factor
from melfed.common.tensors import load_tensors, save_tensors
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study, without_dropout


@pytest.fixture(scope="module")
def images(phantom_clinics: VirtualClinics) -> Images:
    return phantom_clinics.clinics[0].load("train")


def trained(
    study: StudyProtocol, images: Images, *, clinic: str = "north", first: int = 1, rounds: int = 1
) -> Classifier:
    model = without_dropout(small_model(study))
    trainer = Trainer(model, study, CPU)
    for number in range(first, first + rounds):
        trainer.train(images, clinic, number)
    return model


def assert_same(one: Classifier, two: Classifier, tolerance: float = 0.0) -> None:
    tensors, others = trainable_tensors(one), trainable_tensors(two)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor, others[name], rtol=tolerance, atol=tolerance, err_msg=name)


def distance(one: Classifier, two: Classifier) -> float:
    tensors, others = trainable_tensors(one), trainable_tensors(two)
    return max(float(np.abs(tensor - others[name]).max()) for name, tensor in tensors.items())


def inputs_of(images: Images, batch: np.ndarray) -> torch.Tensor:
    backbone = BACKBONES["simple_cnn"]
    return to_input(images.pixels(batch), backbone.mean, backbone.std, None)


def plain_loop(
    study: StudyProtocol, images: Images, make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], rounds: int
) -> Classifier:
    """What `Trainer` should do, in the words of a PyTorch tutorial."""
    model = without_dropout(small_model(study))
    optimizer = make(list(model.parameters()))
    model.train()
    for epoch in range(rounds):
        shuffled = np.random.default_rng(seed_for(study.seed, "order", "north", epoch)).permutation(len(images))
        for batch in np.split(shuffled, range(8, len(images), 8)):
            logits = model(inputs_of(images, batch))
            weights = torch.tensor([study.training.positive_weight if images.targets[i] else 1.0 for i in batch])
            targets = torch.from_numpy(images.targets[batch])
            loss = F.binary_cross_entropy_with_logits(logits, targets, weight=weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(
    ("training", "make"),
    [
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.01)),
        ({"optimizer": "adam", "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
        (
            {"optimizer": "sgd", "momentum": 0.7, "weight_decay": 0.2, "positive_weight": 3.0},
            lambda p: torch.optim.SGD(p, 0.01, momentum=0.7, weight_decay=0.2),
        ),
        (
            {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0},
            lambda p: torch.optim.SGD(p, 0.01),
        ),
    ],
    ids=["adamw", "adam", "weighted sgd with momentum", "sgd"],
)
def test_an_epoch_is_that_of_a_plain_loop(
    images: Images, training: dict[str, object], make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]
) -> None:
    study = small_study(training={"gradient_norm": None, **training})
    model = trained(study, images, rounds=2)
    assert distance(model, without_dropout(small_model(study))) > 1e-3
    assert_same(model, plain_loop(study, images, make, rounds=2), 2e-5)


@pytest.mark.parametrize("augment", [False, True])
def test_micro_batches_do_not_change_a_step(images: Images, monkeypatch: pytest.MonkeyPatch, augment: bool) -> None:
    # SGD: Adam would blow rounding errors up where a gradient is nearly nothing.
    study = small_study(training={"batch_size": 22, "optimizer": "sgd", "augment": augment, "learning_rate": 0.1})
    at_once = trained(study, images, rounds=2)
    monkeypatch.setattr(melfed.common.model.inference, "CPU_MICRO_BATCH_PIXELS", 5 * 32**2)
    assert len(melfed.common.model.inference.micro_batches(np.arange(22), 32, CPU)) == 6
    in_parts = trained(study, images, rounds=2)
    assert distance(at_once, small_model(study)) > 1e-2
    assert_same(at_once, in_parts, 1e-5)


def test_micro_batches_cover_a_batch_in_order() -> None:
    for size in (32, 128, 1024):
        for count in (0, 1, 4, 5, 300):
            parts = melfed.common.model.inference.micro_batches(np.arange(count), size, CPU)
            assert np.array_equal(np.concatenate([np.arange(0), *parts]), np.arange(count))
            assert all(len(part) for part in parts)


def test_the_mean_loss_is_over_images_and_counts_are_right(images: Images) -> None:
    training = {"learning_rate": 1e-12, "positive_weight": 2.5, "optimizer": "sgd", "local_epochs": 2.0}
    study = small_study(training=training)
    model = without_dropout(small_model(study))
    seen: list[int] = []
    result = Trainer(model, study, CPU).train(images, "north", 1, seen.append)
    n = len(images)
    assert (result.images, result.steps) == (2 * n, math.ceil(2 * n / 8))
    assert seen == [min(8 * step, 2 * n) for step in range(1, result.steps + 1)]
    with torch.no_grad():
        logits = model(inputs_of(images, np.arange(n))).numpy()
    weights = np.where(images.targets == 1, 2.5, 1)
    loss = (weights * np.log1p(np.exp(np.where(images.targets == 1, -logits, logits)))).mean()
    assert result.loss == pytest.approx(loss, rel=1e-5)


def test_a_positive_weight_pulls_towards_positives(images: Images) -> None:
    def mean_logit(weight: float) -> float:
        model = trained(small_study(training={"positive_weight": weight}), images, rounds=3).eval()
        with torch.no_grad():
            return float(model(inputs_of(images, np.arange(len(images)))).mean())

    assert mean_logit(10.0) > mean_logit(1.0) + 0.1 > mean_logit(0.1) + 0.2


def test_numbers_depend_on_seed_clinic_and_round_alone(images: Images) -> None:
    study = small_study(training={"augment": True})
    torch.manual_seed(1)
    first = trained(study, images)
    torch.manual_seed(2)
    np.random.seed(3)
    assert_same(first, trained(study, images))
    assert distance(first, trained(study, images, clinic="south")) > 1e-5
    assert distance(first, trained(study, images, first=2)) > 1e-5
    other_seed = without_dropout(small_model(study))
    Trainer(other_seed, study.model_copy(update={"seed": 1}), CPU).train(images, "north", 1)
    assert distance(first, other_seed) > 1e-5


def test_dropout_and_augmentation_are_drawn_from_the_seed(images: Images) -> None:
    def run(**training: object) -> Classifier:
        study = small_study(training=training)
        model = small_model(study)
        Trainer(model, study, CPU).train(images, "north", 1)
        return model

    with_dropout = run()
    assert_same(with_dropout, run())
    assert distance(with_dropout, trained(small_study(), images)) > 1e-5
    assert distance(with_dropout, run(augment=True)) > 1e-5


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(
    images: Images, tmp_path: Path, optimizer: str
) -> None:
    training = {"optimizer": optimizer, "schedule": "one_cycle", "augment": True, "warmup_steps": 2}
    study = small_study(training=training, federation={"rounds": 3})
    whole = small_model(study)
    trainer = Trainer(whole, study, CPU)
    trainer.train(images, "north", 1)
    trainer.train(images, "north", 2)
    save_tensors(tmp_path / "model", trainable_tensors(whole), {})
    save_tensors(tmp_path / "optimizer", trainer.optimizer.state(), {})
    trainer.train(images, "north", 3)

    again = small_model(study)
    load_trainable(again, load_tensors(tmp_path / "model")[0])
    resumed = Trainer(again, study, CPU)
    resumed.optimizer.restore(load_tensors(tmp_path / "optimizer")[0])
    resumed.train(images, "north", 3)
    assert_same(whole, again)
    for name, tensor in trainer.optimizer.state().items():
        np.testing.assert_array_equal(tensor, resumed.optimizer.state()[name])

    forgetful = small_model(study)
    load_trainable(forgetful, load_tensors(tmp_path / "model")[0])
    Trainer(forgetful, study, CPU).train(images, "north", 3)
    assert distance(forgetful, whole) > 1e-6


def test_an_optimiser_without_state_is_restored_too(images: Images) -> None:
    study = small_study(training={"optimizer": "sgd", "momentum": 0.0})
    trainer = Trainer(small_model(study), study, CPU)
    trainer.train(images, "north", 1)
    state = trainer.optimizer.state()
    assert state == {}
    other = Trainer(small_model(study), study, CPU)
    other.optimizer.restore(state)
    other.train(images, "north", 2)


def test_fedprox_adds_the_gradient_of_its_penalty(images: Images) -> None:
    mu, rate = 0.7, 0.05
    training = {
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": len(images),
        "learning_rate": rate,
    }
    federation = {"algorithm": "fedprox", "proximal_mu": mu}
    training["local_epochs"] = 3.0
    model = trained(small_study(training=training, federation=federation), images)

    oracle = without_dropout(small_model(small_study()))
    origin = [p.detach().clone() for p in oracle.parameters()]
    everything = np.arange(len(images))
    for _ in range(3):
        loss = F.binary_cross_entropy_with_logits(
            oracle(inputs_of(images, everything)), torch.from_numpy(images.targets)
        )
        penalty = sum(((p - o) ** 2).sum() for p, o in zip(oracle.parameters(), origin, strict=True))
        gradients = torch.autograd.grad(loss + mu / 2 * penalty, list(oracle.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(oracle.parameters(), gradients, strict=True):
                parameter.sub_(gradient, alpha=rate)
    assert_same(model, oracle, 1e-5)
    assert distance(model, trained(small_study(training=training), images)) > 1e-4


@pytest.mark.parametrize("mode", ["central", "local"])
def test_baselines_stay_close_to_nothing(images: Images, mode: str) -> None:
    prox = {"algorithm": "fedprox", "proximal_mu": 100.0, "mode": mode}
    assert_same(trained(small_study(federation=prox), images), trained(small_study(), images))


def test_only_what_learns_is_changed(images: Images) -> None:
    study = small_study()
    model = small_model(study)
    frozen = dict(model.trunk.named_parameters())
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    Trainer(model, study, CPU).train(images, "north", 1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("trunk."), name


def test_metadata_is_learnt_from(images: Images) -> None:
    study = small_study(model={"metadata": True})
    model = trained(study, images)
    fresh = without_dropout(small_model(study))
    changed = {
        name for name, tensor in trainable_tensors(model).items() if (tensor != trainable_tensors(fresh)[name]).any()
    }
    assert "metadata.0.weight" in changed
    assert images.metadata.shape == encode_metadata(images.records).shape


def test_a_loss_beyond_all_numbers_is_an_error_in_one_line(images: Images) -> None:
    training = {"optimizer": "sgd", "learning_rate": 100.0, "momentum": 0.99, "batch_size": 2, "local_epochs": 5.0}
    study = small_study(training={**training, "gradient_norm": None})
    model = without_dropout(small_model(study))
    with torch.no_grad():
        model.head.weight.mul_(1e18)
    with pytest.raises(StudyError, match=r"clinic north, round 1: the training loss is not finite; lower training"):
        Trainer(model, study, CPU).train(images, "north", 1)


def test_the_learning_rate_follows_schedule_and_warm_up(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"schedule": "one_cycle", "learning_rate": 0.5, "warmup_steps": 6, "optimizer": "sgd"}
    study = small_study(training=training, federation={"rounds": 4})
    trainer = Trainer(small_model(study), study, CPU)
    rates: list[float] = []
    inner = trainer.optimizer.optimizer
    monkeypatch.setattr(inner, "step", lambda: rates.append(inner.param_groups[0]["lr"]))
    steps = math.ceil(len(images) / 8)
    assert steps < 6
    for number in (2, 3):
        assert trainer.train(images, "north", number).steps == steps
    assert len(rates) == 2 * steps
    for step, rate in enumerate(rates):
        factor = schedule_factor("one_cycle", (1 + (step + 0.5) / steps) / 4)
        # The warm-up belongs to the run: the clinic missed the first round, which counts too.
        assert rate == pytest.approx(0.5 * factor * min(1.0, (steps + step + 1) / 7), rel=1e-12)


def test_a_clinic_of_one_step_a_round_reaches_the_stated_rate_as_a_baseline_does(images: Images) -> None:
    """Six rounds of one step each, a warm-up of three steps: begun anew every round, the rate stayed at a quarter."""
    training = {"learning_rate": 0.5, "warmup_steps": 3, "optimizer": "sgd", "momentum": 0.0, "batch_size": len(images)}
    study = small_study(training=training, federation={"rounds": 6})
    baseline = Trainer(without_dropout(small_model(study)), study, CPU)
    clinic = without_dropout(small_model(study))
    rates: list[list[float]] = []
    for number in range(1, 7):
        fresh = Trainer(clinic, study, CPU)
        rates.append([])
        for trainer in (fresh, baseline):
            assert trainer.train(images, "north", number).steps == 1
            rates[-1].append(trainer.optimizer.optimizer.param_groups[0]["lr"])
    assert rates == [[rate, rate] for rate in (0.125, 0.25, 0.375, 0.5, 0.5, 0.5)]
    # Without momentum an optimiser that is kept and one that is begun anew take the same steps, to the last bit.
    for one, two in zip(clinic.parameters(), baseline.model.parameters(), strict=True):
        assert torch.equal(one, two)


@given(
    st.integers(1, 30),
    st.sampled_from([0.01, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0]),
    st.integers(1, 12),
)
def test_rounds_cut_passes_over_all_images_into_stretches(images: int, epochs: float, rounds: int) -> None:
    parts = [round_visits(images, epochs, number, 3, "north") for number in range(1, rounds + 1)]
    passes = math.ceil(rounds * epochs) + 1
    orders = [
        np.random.default_rng(seed_for(3, "order", "north", number)).permutation(images) for number in range(passes)
    ]
    everything = np.concatenate(orders)
    for number, part in enumerate(parts, start=1):
        first, last = round((number - 1) * epochs * images), round(number * epochs * images)
        assert len(part) == max(1, last - first)
        np.testing.assert_array_equal(part, everything[first : first + len(part)])
    if epochs * images >= 1:
        assert sum(map(len, parts)) == round(rounds * epochs * images)


def test_orders_differ_between_passes_clinics_and_seeds() -> None:
    orders = [
        tuple(round_visits(50, 1.0, number, seed, clinic))
        for number in (1, 2)
        for seed in (0, 1)
        for clinic in ("north", "south")
    ]
    assert len(set(orders)) == 8
    assert all(sorted(order) == list(range(50)) for order in orders)
