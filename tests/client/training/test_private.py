"""Private training: what a step does to the parameters, that no unit is split, and where the noise comes from."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from melfed.client.privacy import noise
from melfed.client.privacy.calls import LANES, calls
from melfed.client.privacy.units import privacy_units
from melfed.client.training import private as private_training
from melfed.client.training.feature_cache import FeatureCache
from melfed.client.training.inputs import CachedInputs, Inputs, PixelInputs
from melfed.client.training.private import PrivateTrainer, UnitRows
from melfed.common.data.dataset import Images
from melfed.common.model import inference as scoring
from melfed.common.model.classifier import Classifier, set_trainable
from melfed.common.model.frozen_prefix import split
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import Place
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study, without_dropout


@pytest.fixture
def images(phantom_clinics: VirtualClinics) -> Images:
    return phantom_clinics.clinics[0].load("train")


def private_study(**privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "noise_multiplier": 0.0, "recipe": "manual", **privacy}
    training = {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "gradient_norm": None}
    return small_study(privacy=stated, training={**training, "positive_weight": 2.0})


def train(study: StudyProtocol, images: Images, sigma: float = 0.0, expected: int = 10) -> dict[str, torch.Tensor]:
    """Train one round; return how far each parameter moved."""
    model = without_dropout(small_model(study))
    return moved_by(model, study, PixelInputs(model, images, 32, None, CPU), images, sigma, expected)


def moved_by(
    model: Classifier, study: StudyProtocol, inputs: Inputs, images: Images, sigma: float = 0.0, expected: int = 10
) -> dict[str, torch.Tensor]:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert study.privacy is not None
    trainer = PrivateTrainer(model, study, study.privacy, CPU)
    places: list[Place] = []
    take = trainer.optimizer.step
    trainer.optimizer.step = lambda place: (places.append(place), take(place))
    result = trainer.train(
        inputs,
        images.targets,
        privacy_units(images.records, study.privacy.unit),
        expected_units=expected,
        noise_multiplier=sigma,
        round_number=1,
    )
    steps = study.privacy.steps
    assert result.steps == steps
    assert places == [Place(1, step, steps, 0) for step in range(steps)]
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def loop(
    model: Classifier, inputs: Inputs, images: Images, factor: Callable[[float], float], views: int = 1
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The sum of scaled gradients, one patient after the other, by plain autograd; and their lengths."""
    units = privacy_units(images.records, "patient")
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in learning.items()}
    norms = []
    for unit in dict.fromkeys(units):
        of_unit = np.flatnonzero([other == unit for other in units])
        rows, chosen = np.repeat(of_unit, views), np.tile(np.arange(views), len(of_unit))
        model.zero_grad()
        wanted = torch.from_numpy(images.targets[rows])
        logits = inputs.logits(rows, chosen)
        F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(2.0)).backward()
        length = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in learning.values()))
        norms.append(length)
        for name, p in learning.items():
            total[name] += p.grad * factor(length)
    model.zero_grad()
    return total, norms


def network(study: StudyProtocol, images: Images) -> tuple[Classifier, PixelInputs]:
    model = without_dropout(small_model(study)).eval()
    return model, PixelInputs(model, images, 32, None, CPU)


def clipped(length: float) -> float:
    return min(1.0, 0.5 / length)


def test_a_step_without_noise_is_the_sum_of_clipped_patients_over_their_expected_number(images: Images) -> None:
    study = private_study(clipping_norm=0.5)
    total, norms = loop(*network(study, images), images, clipped)
    assert min(norms) < 0.5 < max(norms), "some patients must be clipped, and some not"
    moved = train(study, images, expected=40)
    for name, expected in total.items():
        torch.testing.assert_close(moved[name], -expected / 40, rtol=1e-4, atol=1e-7)


def test_normalised_clipping_makes_all_patients_count_alike(images: Images) -> None:
    study = private_study(clipping_norm=0.5, clipping="normalised")
    total, _ = loop(*network(study, images), images, lambda length: 0.5 / (length + 0.01))
    for name, moved in train(study, images, expected=40).items():
        torch.testing.assert_close(moved, -total[name] / 40, rtol=1e-4, atol=1e-7)


def test_those_who_are_not_drawn_do_not_count_and_the_rate_divides(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is drawn alone moves the network by its own clipped gradient over qN."""
    patients = list(dict.fromkeys(privacy_units(images.records, "patient")))
    monkeypatch.setattr(private_training, "poisson_sample", lambda units, rate, random: np.array([2]))
    study = private_study(clipping_norm=0.5, sampling_rate=0.25)
    moved = train(study, images, expected=40)
    of_one = [i for i, unit in enumerate(privacy_units(images.records, "patient")) if unit == patients[2]]
    alone = Images(tuple(images.records[i] for i in of_one), images.store)
    total, norms = loop(*network(study, alone), alone, clipped)
    assert len(norms) == 1
    for name, expected in total.items():
        torch.testing.assert_close(moved[name], -expected / (0.25 * 40), rtol=1e-4, atol=1e-7)


def test_two_steps_are_twice_one_step(images: Images) -> None:
    at_once = train(private_study(clipping_norm=0.5, steps=2), images)
    study = private_study(clipping_norm=0.5)
    model, inputs = network(study, images)
    one, other = (moved_by(model, study, inputs, images) for _ in range(2))
    for name, moved in at_once.items():
        torch.testing.assert_close(moved, one[name] + other[name], rtol=1e-4, atol=1e-6)


def test_micro_batches_do_not_change_a_step(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    study = private_study(clipping_norm=0.5)
    at_once = train(study, images)
    monkeypatch.setattr(scoring, "CPU_MICRO_BATCH_PIXELS", 4 * 32**2)
    model, inputs = network(study, images)
    assert inputs.micro_batch == 4
    for name, moved in moved_by(model, study, inputs, images).items():
        torch.testing.assert_close(moved, at_once[name], rtol=1e-4, atol=1e-7)


def test_several_views_of_stored_outputs_are_averaged_with_the_images(images: Images, tmp_path: Path) -> None:
    study = private_study(clipping_norm=0.5, views=3)
    model = without_dropout(small_model(study)).to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        model.head.weight.mul_(30)
    set_trainable(model, "head")
    parts = split(model)
    features = FeatureCache(tmp_path).features(model, images, 32, CPU, views=3)
    assert parts is not None
    assert features is not None
    inputs = CachedInputs(parts, features, images, False, CPU)
    total, norms = loop(model, inputs, images, clipped, views=3)
    plain, _ = loop(model, inputs, images, clipped)
    assert max(norms) > 0.5
    assert any((total[name] - plain[name]).abs().max() > 1e-3 for name in total), "views must matter"
    for name, moved in moved_by(model, study, inputs, images).items():
        expected = -total[name] / 10 if name in total else torch.zeros_like(moved)
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


class Spoilt(PixelInputs):
    """Some images have a logit that is not finite, as a model made for the purpose could give them."""

    def __init__(self, inputs: PixelInputs, spoilt: set[int], logit: float) -> None:
        super().__init__(inputs.model, inputs.images, 32, None, CPU)
        self.spoilt, self.logit = spoilt, logit

    def logits(self, images: np.ndarray, views: np.ndarray | None = None) -> torch.Tensor:
        factor = torch.tensor([self.logit if int(image) in self.spoilt else 1.0 for image in images])
        return super().logits(images, views) * factor


@pytest.mark.parametrize("logit", [math.inf, math.nan])
@pytest.mark.parametrize("limit", [4, 1000])
def test_a_patient_whose_gradient_is_not_finite_counts_as_nobody(
    images: Images, logit: float, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An error would tell the sender of the model something about one patient, without noise, as often as it asks."""
    study = private_study(clipping_norm=0.5)
    units = privacy_units(images.records, "patient")
    of_two = [i for i, unit in enumerate(units) if unit in {units[0], units[-1]}]
    model, plain = network(study, images)
    inputs = Spoilt(plain, {of_two[0], of_two[-1]}, logit)
    inputs.micro_batch = limit
    moved = moved_by(model, study, inputs, images)
    others = Images(tuple(record for i, record in enumerate(images.records) if i not in of_two), images.store)
    total, norms = loop(*network(study, others), others, clipped)
    assert len(norms) == len(set(units)) - 2
    for name, expected in total.items():
        torch.testing.assert_close(moved[name], -expected / 10, rtol=1e-4, atol=1e-7)
    told = re.findall(r"study small: (\d) gradients are not finite and count as 0", caplog.text)
    assert sum(map(int, told)) == 2


def test_dropout_does_not_follow_a_seed_that_others_know(images: Images) -> None:
    """Masks are drawn image after image: by a known seed, a patient more would give all later ones another mask."""
    study, moved = private_study(), []
    for _ in range(2):
        torch.manual_seed(0)
        model = small_model(study)
        assert model.dropout.p > 0
        moved.append(moved_by(model, study, PixelInputs(model, images, 32, None, CPU), images))
    assert not torch.equal(moved[0]["head.weight"], moved[1]["head.weight"])


def test_a_step_without_anybody_is_a_step(images: Images) -> None:
    """Nobody is drawn in four steps of q = 1e-9 but once in 10^7 runs; the optimiser's own terms go on."""
    study = private_study(sampling_rate=1e-9, steps=4).with_changes("training", weight_decay=0.1)
    model = small_model(study)
    for name, moved in train(study, images).items():
        before = model.get_parameter(name).detach()
        torch.testing.assert_close(moved, (0.9**4 - 1) * before, rtol=1e-4, atol=1e-7)


def test_the_network_is_left_as_it_was_found(images: Images) -> None:
    study = private_study()
    model, inputs = network(study, images)
    for _ in range(2):
        moved_by(model, study, inputs, images)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    model.zero_grad()
    inputs.logits(np.arange(3)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_progress_is_in_rows(images: Images) -> None:
    study, seen = private_study(steps=2, views=2), list[int]()
    model, inputs = network(study, images)
    assert study.privacy is not None
    PrivateTrainer(model, study, study.privacy, CPU).train(
        inputs,
        images.targets,
        privacy_units(images.records, "patient"),
        expected_units=10,
        noise_multiplier=0.0,
        round_number=1,
        on_progress=seen.append,
    )
    assert seen == sorted(seen)
    assert seen[-1] == 2 * 2 * len(images)


def test_noise_of_a_step_has_the_stated_size(images: Images) -> None:
    """Without anybody drawn, a step is pure noise of standard deviation σC/(qN). False alarm below 1e-7."""
    study = private_study(clipping_norm=0.5, sampling_rate=1e-9)
    moved = torch.cat([value.flatten() for value in train(study, images, sigma=3.0, expected=10).values()]).double()
    scaled = moved / (3.0 * 0.5 / (1e-9 * 10))
    assert len(scaled) > 5000
    # The sum of squares is chi-square with len(scaled) degrees of freedom.
    assert abs(float((scaled**2).mean()) - 1) < 6.5 * math.sqrt(2 / len(scaled))
    assert abs(float(scaled.mean())) < 6.5 / math.sqrt(len(scaled))


def test_noise_does_not_follow_the_studys_seed(images: Images) -> None:
    study = private_study(sampling_rate=1e-9)
    torch.manual_seed(0)
    first = train(study, images, sigma=1.0)
    torch.manual_seed(0)
    second = train(study, images, sigma=1.0)
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_every_step_draws_its_own_noise_and_patients(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    asked: list[float] = []
    original = private_training.poisson_sample

    def watched(units: int, rate: float, random: np.random.Generator) -> np.ndarray:
        sample = original(units, rate, random)
        drawn.append(tuple(sample))
        return sample

    def still(_self: object, shape: tuple[int, ...], std: float) -> np.ndarray:
        asked.append(std)
        return np.zeros(shape)

    monkeypatch.setattr(private_training, "poisson_sample", watched)
    monkeypatch.setattr(noise.NoiseSource, "gaussian", still)
    study = private_study(sampling_rate=0.5, steps=6, clipping_norm=2.0)
    parameters = len(list(small_model(study).parameters()))
    train(study, images, sigma=1.5)
    assert len(drawn) == 6
    assert len(set(drawn)) > 1
    assert asked == [3.0 * (1 + noise.ROUNDING)] * 6 * parameters


def test_views_are_averaged_before_clipping(images: Images) -> None:
    """Without augmentation all views are the plain image, so more of them change nothing."""
    one, three = (train(private_study(clipping_norm=0.5, views=views), images) for views in (1, 3))
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=1e-4, atol=1e-7)


def test_an_overflow_is_no_error(images: Images) -> None:
    """Whether parameters overflow hangs on the patients' sum, by as little as the study's author likes."""
    study = private_study(clipping_norm=1e6).with_changes("training", learning_rate=100.0)
    learnt = train(study, images, sigma=1e38, expected=1)
    assert all(value.isfinite().all() for value in learnt.values())
    assert any((value.abs() > 1e38).any() for value in learnt.values())


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=30),
    st.integers(1, 3),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=60)
def test_units_are_never_split_and_no_row_is_lost(units: list[int], views: int, limit: int, random) -> None:
    names = [f"unit {number}" for number in units]
    rows = UnitRows.of(names, views)
    chosen = np.array(sorted(random.sample(range(rows.count), random.randint(0, rows.count))), np.int64)
    order = list(dict.fromkeys(names))
    seen: list[tuple[int, int]] = []
    for call in calls(rows.starts, chosen, limit, np.random.default_rng(0)):
        owners = {}
        for row, number in zip(call.rows, call.patients, strict=True):
            owners.setdefault(int(number), set()).add(names[rows.images[row]])
            if number >= 0:
                seen.append((int(rows.images[row]), int(rows.views[row])))
        assert all(len(names_of) == 1 for names_of in owners.values())
        assert len(call.rows) <= max(1 << (limit - 1).bit_length(), LANES) or sum(n >= 0 for n in owners) == 1
    wanted = {order[unit] for unit in chosen}
    expected = [(i, view) for i, name in enumerate(names) if name in wanted for view in range(views)]
    assert sorted(seen) == expected
