"""Numbers of privacy are rounded to the safe side, and what is said about them holds."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.study.protocol import PrivacySpec
from melfed.server.report.privacy_words import (
    ceiling,
    found,
    headline,
    meanings,
    right_guesses,
    short,
    spent,
    terminal_line,
)
from melfed.server.runs.summary import ClinicPrivacy, PrivacySummary

LEDGERS = Path("runs/one/ledgers")


def privacy(**changes: object) -> PrivacySummary:
    content = {
        **{"unit": "patient", "epsilon": 3.0, "epsilon_spent": 2.98, "delta": 1e-5, "noise_multiplier": 8.2134},
        **{"sampling_rate": 1.0, "steps": 40, "clipping": "fixed", "clipping_norm": 1.0, "evaluation": "noised"},
        **{"evaluation_noise_multiplier": 31.0, "recipe": (), "released": (), "warnings": ()},
        "clinics": (ClinicPrivacy(name="a", epsilon=2.98, ledger_head="0a" * 32),),
    }
    return PrivacySummary.model_validate(content | changes)


@settings(deadline=None, max_examples=200)
@given(st.floats(1e-6, 1e6))
def test_a_loss_is_never_rounded_down(value: float) -> None:
    assert value <= float(ceiling(value)) <= value * 1.01


def test_numbers_are_short() -> None:
    assert [ceiling(value) for value in (2.98, 2.9801, 3.0, 20.0855, 1234.0)] == ["2.98", "2.99", "3", "20.1", "1240"]
    assert [short(value) for value in (1e-5, 1e-10, 0.25, 1.0, 3.0, 1e6)] == ["1e-5", "1e-10", "0.25", "1", "3", "1e6"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "2.98"),
        ({"epsilon_spent": 2.981}, "2.99"),
        ({"epsilon": 2.9876, "epsilon_spent": 2.9871}, "2.9876"),
        ({"epsilon_spent": 4.001}, "4.01"),
        ({"epsilon_spent": None}, "without bound"),
    ],
)
def test_what_was_spent_is_not_above_what_was_stated_by_rounding(changes: dict[str, object], said: str) -> None:
    assert spent(privacy(**changes)) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Every patient is protected: ε = 3 (spent 2.98) at δ = 1e-5."),
        (
            {"evaluation": "public", "evaluation_noise_multiplier": None},
            "Every patient in training is protected: ε = 3 (spent 2.98) at δ = 1e-5. Validation and test images are "
            "declared public.",
        ),
        (
            {"unit": "lesion"},
            "Every lesion (not every patient) is protected: ε = 3 (spent 2.98) at δ = 1e-5. A patient with several "
            "lesions is protected less: two lesions count as two.",
        ),
        ({"epsilon": None}, "Every patient is protected: ε = 2.98 at δ = 1e-5."),
        (
            {"epsilon_spent": 4.2},
            "Every patient is protected: ε = 3 (spent 4.2, other studies of the same data included) at δ = 1e-5.",
        ),
        (
            {"epsilon": None, "epsilon_spent": None, "noise_multiplier": 0.0},
            "No privacy: the noise is off. No patient is protected.",
        ),
        ({"evaluation_noise_multiplier": 0.0, "epsilon_spent": None}, "No privacy: the noise is off. No patient is"),
        ({"epsilon_spent": None}, "No privacy: a clinic's ledger has no bound. No patient is protected there."),
    ],
)
def test_the_headline(changes: dict[str, object], said: str) -> None:
    assert headline(privacy(**changes)).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "privacy: every patient, ε 3 (spent 2.98), δ 1e-5, σ 8.21, 40 steps; ledgers: runs/one/ledgers"),
        (
            {"epsilon": None, "unit": "image", "steps": 1},
            "privacy: every image (not every patient), ε 2.98, δ 1e-5, σ 8.21, 1 step; ledgers: runs/one/ledgers",
        ),
        (
            {"epsilon": None, "epsilon_spent": None, "noise_multiplier": 0.0},
            "privacy: none, the noise is off, σ 0, 40 steps; ledgers: runs/one/ledgers",
        ),
    ],
)
def test_the_line_of_the_terminal(changes: dict[str, object], said: str) -> None:
    assert terminal_line(privacy(**changes), LEDGERS) == said


def worst_test(epsilon: float, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """False and right alarms of all tests of the (ε, δ) mechanism that gives most away (Kairouz et al. 2015)."""
    false = np.linspace(0, 1, 20_001)
    right = np.minimum(np.minimum(1, math.exp(epsilon) * false + delta), 1 - math.exp(-epsilon) * (1 - delta - false))
    return false, np.maximum(right, 0)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-5), (1, 0), (3, 1e-5), (2, 0.1), (6, 1e-3)])
def test_the_bounds_are_reached_by_the_worst_mechanism_and_not_passed(epsilon: float, delta: float) -> None:
    false, right = worst_test(epsilon, delta)
    assert float(((right + 1 - false) / 2).max()) == pytest.approx(right_guesses(epsilon, delta), abs=1e-4)
    at = int(np.argmin(np.abs(false - 0.01)))
    assert right[at] <= found(epsilon, delta, 0.01) + 1e-12
    assert found(0.0, 0.0, 0.01) == pytest.approx(0.01)
    assert right_guesses(0.0, 0.0) == 0.5


def test_what_epsilon_means_is_said_in_numbers() -> None:
    said = dict(meanings(privacy(epsilon_spent=3.0)))
    assert "e^ε = 20.1" in said["What ε says"]
    assert "no more than 20.1 in 100" in said["What ε says"]
    assert "95.3 times in 100" in said["What ε says"]
    assert "δ = 1e-5" in said["What δ says"]
    assert "Patients with several patients" not in said
    several = dict(meanings(privacy(unit="lesion", epsilon_spent=3.0)))["Patients with several lesions"]
    assert "2 ε = 6 only, with three at 9" in several


@settings(deadline=None, max_examples=100)
@given(st.floats(0, 1e4), st.floats(1e-12, 0.5), st.sampled_from(["patient", "lesion", "image"]))
def test_every_epsilon_has_words(epsilon: float, delta: float, unit: str) -> None:
    said = " ".join(text for _, text in meanings(privacy(unit=unit, epsilon_spent=epsilon, delta=delta)))
    assert not {"nan", "inf"} & set(said.split())
    assert ("excludes next to nothing" in said) == (right_guesses(epsilon, delta) > 0.999)


def test_no_protection_is_called_so() -> None:
    assert [title for title, _ in meanings(privacy(epsilon_spent=None))] == ["No protection"]


def test_units_of_the_protocol_all_have_words() -> None:
    for unit in PrivacySpec.model_fields["unit"].annotation.__args__:  # type: ignore[union-attr]
        assert unit in headline(privacy(unit=unit)).lower()
