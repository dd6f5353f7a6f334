"""Private training: what a step does to the parameters, that no unit is split, and where the noise comes from."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from client.inputs import PixelInputs
from client.privacy import noise
from client.privacy.units import privacy_units
from client.private_training import PrivateTrainer, UnitRows, rounded_count
from common.errors import StudyError
from common.image_set import Images
from common.protocol import StudyProtocol
from simulations.virtual_clinics import VirtualClinics
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
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert study.privacy is not None
    trainer = PrivateTrainer(model, study, study.privacy, CPU)
    result = trainer.train(
        PixelInputs(model, images, 32, None, CPU),
        images.targets,
        privacy_units(images.records, study.privacy.unit),
        expected_units=expected,
        noise_multiplier=sigma,
        round_number=1,
    )
    assert result.steps == study.privacy.steps
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def loop(study: StudyProtocol, images: Images, norm: float) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The sum of clipped gradients, one patient after the other, by plain autograd."""
    model = without_dropout(small_model(study)).eval()
    units = privacy_units(images.records, "patient")
    run = PixelInputs(model, images, 32, None, CPU)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    norms = []
    for unit in dict.fromkeys(units):
        rows = np.flatnonzero([other == unit for other in units])
        model.zero_grad()
        wanted = torch.from_numpy(images.targets[rows])
        loss = F.binary_cross_entropy_with_logits(run.logits(rows), wanted, pos_weight=torch.tensor(2.0))
        loss.backward()
        length = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()))
        norms.append(length)
        for name, p in model.named_parameters():
            total[name] += p.grad * min(1.0, norm / length)
    return total, norms


def test_a_step_without_noise_is_the_sum_of_clipped_patients_over_their_expected_number(images: Images) -> None:
    study = private_study(clipping_norm=0.5)
    total, norms = loop(study, images, 0.5)
    assert min(norms) < 0.5 < max(norms), "some patients must be clipped, and some not"
    moved = train(study, images, expected=40)
    for name, expected in total.items():
        torch.testing.assert_close(moved[name], -expected / 40, rtol=1e-4, atol=1e-7)


def test_noise_of_a_step_has_the_stated_size(images: Images) -> None:
    """Without anybody drawn, a step is pure noise of standard deviation σC/(qN). False alarm below 1e-9."""
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
    from client import private_training

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
    assert asked == [3.0] * 6 * parameters


def test_views_are_averaged_before_clipping(images: Images) -> None:
    """Without augmentation all views are the plain image, so more of them change nothing."""
    one, three = (train(private_study(clipping_norm=0.5, views=views), images) for views in (1, 3))
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, rtol=1e-4, atol=1e-7)


def test_an_overflow_is_an_error(images: Images) -> None:
    study = private_study(clipping_norm=1e6).with_changes("training", learning_rate=100.0)
    with pytest.raises(StudyError, match=r"round 1: a parameter is not finite; lower training\.learning_rate"):
        train(study, images, sigma=1e38, expected=1)


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
    for batch, numbers in rows.batches(chosen, limit):
        owners = {}
        for row, number in zip(batch, numbers, strict=True):
            owners.setdefault(int(number), set()).add(names[rows.images[row]])
            seen.append((int(rows.images[row]), int(rows.views[row])))
        assert all(len(names_of) == 1 for names_of in owners.values())
        assert sorted(owners) == list(range(len(owners)))
        assert len(batch) <= limit or len(owners) == 1
    wanted = {order[unit] for unit in chosen}
    expected = [(i, view) for i, name in enumerate(names) if name in wanted for view in range(views)]
    assert sorted(seen) == expected


@pytest.mark.parametrize(
    ("count", "cell", "expected"), [(0, 10, 10), (4, 10, 10), (14, 10, 10), (15, 10, 20), (7, 1, 7)]
)
def test_counts_are_rounded_to_the_cell(count: int, cell: int, expected: int) -> None:
    assert rounded_count(count, cell) == expected
