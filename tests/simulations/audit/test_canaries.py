"""Canaries: what the network and its private gradients see of them, and how they are scored and guessed about."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from client.inputs import PixelInputs
from client.privacy.accounting import Mechanism
from client.privacy.gradients import Clipping, PrivateGradients
from client.privacy.units import privacy_units
from common.classifier import Classifier
from common.errors import StudyError
from simulations.canaries import Auditor, CanaryInputs, canary_records, correct_guesses
from simulations.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study, without_dropout

ORDINARY = 6


def auditor_of(head: torch.nn.Linear, canaries: int = 7, q: float = 1.0) -> Auditor:
    return Auditor(canaries, Mechanism(q, 2.0, 1), head, np.random.default_rng(1))


@pytest.fixture
def model() -> Classifier:
    return without_dropout(small_model(small_study()))


@pytest.fixture
def inputs(model: Classifier, phantom_clinics: VirtualClinics) -> PixelInputs:
    return PixelInputs(model, phantom_clinics.clinics[0].load("train"), 32, None, CPU)


def test_a_canary_is_one_clipped_coordinate(model: Classifier, inputs: PixelInputs) -> None:
    """Through the real gradients, with four images averaged, whatever the network has learnt."""
    auditor = auditor_of(model.head)
    canary_of = np.repeat(np.arange(7), 4)
    canaries = CanaryInputs(inputs, ORDINARY, canary_of, auditor, clipping_norm=3.0)
    for canary in range(7):
        rows = ORDINARY + np.flatnonzero(canary_of == canary)
        with PrivateGradients(model, Clipping(3.0)) as gradients:

            def losses(rows: np.ndarray = rows) -> torch.Tensor:
                return F.binary_cross_entropy_with_logits(canaries.logits(rows), torch.zeros(4), reduction="none")

            norms = gradients.add(losses, np.zeros(4, np.int64))
        assert float(norms[0]) > 60 * 3.0
        expected = torch.zeros_like(model.head.weight)
        expected[0, auditor.coordinates[canary]] = 3.0 * auditor.signs[canary]
        torch.testing.assert_close(gradients.sums.pop("head.weight"), expected, rtol=1e-3, atol=1e-6)
        assert float(gradients.sums.pop("head.bias").abs()) < 0.02 * 3.0
        assert all(not total.any() for total in gradients.sums.values())


def test_ordinary_images_are_left_alone(model: Classifier, inputs: PixelInputs) -> None:
    canaries = CanaryInputs(inputs, ORDINARY, np.arange(7), auditor_of(model.head), clipping_norm=1.0)
    rows = np.array([0, ORDINARY, 3, ORDINARY + 5, 5])
    logits = canaries.logits(rows)
    torch.testing.assert_close(logits[[0, 2, 4]], inputs.logits(np.array([0, 3, 5])))
    assert logits[[1, 3]].tolist() == [0.0, 0.0]
    assert not model.head._forward_pre_hooks  # the hook is gone
    assert (canaries.views, canaries.micro_batch) == (inputs.views, inputs.micro_batch)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 20))
def test_coordinates_are_dealt_out_evenly(canaries: int, features: int) -> None:
    auditor = auditor_of(torch.nn.Linear(features, 1), canaries)
    auditor.head.weight.grad = torch.zeros(1, features)
    for _ in range(3):
        counts = np.bincount(auditor.coordinates, minlength=features)
        assert counts.max() - counts.min() <= 1
        assert len(counts) == features
        assert set(auditor.signs) <= {-1.0, 1.0}
        auditor.observe(1.0)


@pytest.mark.parametrize("q", [1.0, 0.3])
def test_the_score_is_the_likelihood_ratio(q: float) -> None:
    auditor, expected = auditor_of(torch.nn.Linear(9, 1), q=q), np.zeros(7)
    for step in range(4):
        gradient = torch.randn(1, 9, generator=torch.Generator().manual_seed(step))
        auditor.head.weight.grad = gradient
        seen = 5.0 * gradient[0, auditor.coordinates].double().numpy() * auditor.signs
        out, present = (np.exp(-((seen - mean) ** 2) / (2 * 2.0**2)) for mean in (0.0, 1.0))
        expected += np.log((1 - q) * out + q * present) - np.log(out)
        auditor.observe(5.0)
    np.testing.assert_allclose(auditor.scores, expected, rtol=1e-9)
    assert auditor.step == 4


def test_a_head_that_does_not_learn_has_no_place_for_canaries() -> None:
    with pytest.raises(StudyError, match="head"):
        auditor_of(torch.nn.Linear(9, 1)).observe(1.0)


def test_canaries_are_patients_of_their_own(phantom_clinics: VirtualClinics) -> None:
    records = phantom_clinics.clinics[0].train
    included = np.array([True, False, True])
    canary_of, canaries = canary_records(records[0], included, 4)
    assert canary_of.tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    for unit, expected in (("patient", 2), ("lesion", 2), ("image", 8)):
        own = set(privacy_units(records, unit))
        units = privacy_units([*records, *canaries], unit)
        assert len(set(units) - own) == expected
        assert len(set(units)) == len(own) + expected


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30), st.data())
def test_the_highest_are_in_and_the_lowest_out(rows: list[tuple[int, bool]], data: st.DataObject) -> None:
    scores = np.array([score + 1e-3 * i for i, (score, _) in enumerate(rows)])
    included = np.array([bit for _, bit in rows])
    highest = data.draw(st.integers(0, len(rows)))
    lowest = data.draw(st.integers(0, len(rows) - highest))
    ranked = [bit for _, bit in sorted(zip(scores, included, strict=True))]
    right = sum(not bit for bit in ranked[:lowest]) + sum(ranked[len(ranked) - highest :])
    assert correct_guesses(scores, included, highest, lowest) == right
    assert correct_guesses(included.astype(float), included, included.sum(), (~included).sum()) == len(rows)


def test_evidence_of_a_broken_mechanism_stays_finite() -> None:
    """Unclipped, a canary's step is 64 times as large as accounted for, and more."""
    auditor = auditor_of(torch.nn.Linear(9, 1), q=0.3)
    auditor.head.weight.grad = torch.full((1, 9), 1e6)
    auditor.observe(1.0)
    assert np.isfinite(auditor.scores).all()
    assert math.isclose(auditor.scores.min(), math.log(0.7), rel_tol=1e-6) or auditor.scores.min() > 0
