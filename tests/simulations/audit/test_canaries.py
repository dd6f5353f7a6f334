"""Canaries: what the network and its private gradients see of them, and how they are scored and guessed about."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from torch.nn import functional as F

from melfed.client.privacy.accounting import Mechanism
from melfed.client.privacy.gradients import Clipping, PrivateGradients
from melfed.client.training.inputs import PixelInputs
from melfed.common.model.classifier import Classifier
from melfed.simulations.audit.canaries import NO_CANARY, Auditor, CanaryInputs, correct_guesses
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study, without_dropout

CANARY_OF = np.concatenate([np.full(6, NO_CANARY), np.repeat(np.arange(7), 4)])
"""Six of the clinic's own images, then four of each of seven canaries."""


def auditor_of(features: int, canaries: int = 7, q: float = 1.0, steps: int = 1) -> Auditor:
    return Auditor(canaries, Mechanism(q, 2.0, steps), features, np.random.default_rng(1))


@pytest.fixture
def model() -> Classifier:
    return without_dropout(small_model(small_study()))


@pytest.fixture
def inputs(model: Classifier, phantom_clinics: VirtualClinics) -> PixelInputs:
    return PixelInputs(model, phantom_clinics.clinics[0].load("train"), 32, None, CPU)


def canary_inputs(model: Classifier, inputs: PixelInputs, auditor: Auditor, norm: float) -> CanaryInputs:
    stand_ins = np.where(CANARY_OF == NO_CANARY, np.arange(len(CANARY_OF)), 0)
    return CanaryInputs(inputs, stand_ins, CANARY_OF, model.head, auditor, norm)


def test_a_canary_is_one_clipped_coordinate(model: Classifier, inputs: PixelInputs) -> None:
    """Through the real gradients, with four images averaged, whatever the network has learnt."""
    auditor = auditor_of(model.head.in_features)
    canaries = canary_inputs(model, inputs, auditor, 3.0)
    for canary in range(7):
        rows = np.flatnonzero(canary == CANARY_OF)
        with PrivateGradients(model, Clipping(3.0)) as gradients:

            def losses(rows: np.ndarray = rows) -> torch.Tensor:
                return F.binary_cross_entropy_with_logits(canaries.logits(rows), torch.zeros(4), reduction="none")

            norms = gradients.add(losses, np.zeros(4, np.int64))
        assert float(norms[0]) > 60 * 3.0
        expected = torch.zeros_like(model.head.weight)
        expected[0, auditor.coordinates[canary]] = 3.0 * auditor.signs[canary]
        torch.testing.assert_close(
            gradients.sums.pop("head.weight").float(), expected, rtol=1e-3, atol=1e-6, check_dtype=False
        )
        assert float(gradients.sums.pop("head.bias").abs()) < 0.02 * 3.0
        assert all(not total.any() for total in gradients.sums.values())


def test_ordinary_images_are_left_alone(model: Classifier, inputs: PixelInputs) -> None:
    canaries = canary_inputs(model, inputs, auditor_of(model.head.in_features), 1.0)
    logits = canaries.logits(np.array([0, 6, 3, 11, 5]))
    torch.testing.assert_close(logits[[0, 2, 4]], inputs.logits(np.array([0, 3, 5])))
    assert logits[[1, 3]].tolist() == [0.0, 0.0]
    assert not model.head._forward_pre_hooks  # the hook is gone
    assert (canaries.views, canaries.micro_batch) == (inputs.views, inputs.micro_batch)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 20))
def test_coordinates_are_dealt_out_evenly(canaries: int, features: int) -> None:
    auditor = auditor_of(features, canaries)
    for number in range(3):
        counts = np.bincount(auditor.coordinates, minlength=features)
        assert counts.max() - counts.min() <= 1
        assert len(counts) == features
        assert set(auditor.signs) <= {-1.0, 1.0}
        assert auditor.rounds == number
        auditor.observe(np.zeros(features))


@pytest.mark.parametrize(("q", "steps"), [(1.0, 1), (1.0, 5), (0.3, 1), (0.3, 4)])
def test_the_score_is_the_likelihood_ratio(q: float, steps: int) -> None:
    """Of so many steps together, each of which had the canary with probability q, and noise of σ = 2."""
    auditor, expected = auditor_of(9, q=q, steps=steps), np.zeros(7)
    deviation, had = 2.0 * math.sqrt(steps), np.arange(steps + 1)
    for number in range(4):
        total = np.random.default_rng(number).normal(0, 3, 9)
        seen = total[auditor.coordinates] * auditor.signs
        present = (binom.pmf(had, steps, q) * norm.pdf(seen[:, None], had, deviation)).sum(1)
        expected += np.log(present) - norm.logpdf(seen, 0, deviation)
        auditor.observe(total)
    np.testing.assert_allclose(auditor.scores, expected, rtol=1e-9)


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
    auditor = auditor_of(9, q=0.3)
    auditor.observe(np.array([1e6, -1e6, np.nan, np.inf, 0, 0, 0, 0, 0]))
    assert not np.isnan(auditor.scores).any()
    assert auditor.scores.min() >= math.log(0.7) - 1e-9
