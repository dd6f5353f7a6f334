"""How much noise a study's histograms may have, and how often they leave a clinic."""

import pytest

from melfed.client.privacy import plan
from melfed.client.privacy.plan import PrivacyPlan, plan_of, privacy_of
from melfed.common.study.evaluation_noise import (
    EVALUATION_SHARE,
    evaluations,
    final_evaluations,
    gaussian_multiplier,
    largest_multiplier,
    noised_attributes,
    subgroups_multiplier,
)
from melfed.common.study.protocol import StudyProtocol


def study(federation: dict[str, object] | None = None, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "epsilon": None if "noise_multiplier" in privacy else 3.0, "recipe": "manual"}
    content = {"federation": {"rounds": 6, **(federation or {})}, "privacy": {**stated, **privacy}}
    return StudyProtocol.model_validate(content)


def planned(federation: dict[str, object] | None = None, **privacy: object) -> PrivacyPlan:
    return plan_of(study(federation, **privacy))


@pytest.mark.parametrize(
    ("rounds", "every", "releases"),
    [(6, 1, 6), (6, 2, 3), (6, 4, 2), (6, 6, 1), (6, 100, 1), (1, 1, 1), (7, 3, 3)],
)
def test_releases_are_the_validations_on_the_way_and_one_in_the_end(rounds: int, every: int, releases: int) -> None:
    assert planned({"rounds": rounds, "validate_every": every}, noise_multiplier=0.0).releases == releases


@pytest.mark.parametrize(
    ("stated", "delta", "every"),
    [(0.05, 1e-5, 1), (1.0, 1e-12, 6), (8.0, 1e-5, 2), (300.0, 1e-5, 6), (1.0, 0.3, 1), (1e4, 1e-5, 1)],
)
def test_the_noise_of_histograms_is_what_a_coordinator_believes(stated: float, delta: float, every: int) -> None:
    asked = study({"validate_every": every}, epsilon=stated, delta=delta)
    planned_noise = plan._evaluation(EVALUATION_SHARE * stated, delta, evaluations(asked))
    assert planned_noise is not None
    believed = largest_multiplier(asked, privacy_of(asked))
    assert planned_noise.noise_multiplier <= believed
    if stated <= 8 and delta < 0.3:
        assert believed < 2.2 * planned_noise.noise_multiplier


@pytest.mark.parametrize(
    ("stated", "delta", "every"), [(0.3, 1e-5, 1), (3.0, 1e-5, 6), (8.0, 1e-6, 2), (300.0, 1e-5, 6), (1e4, 1e-5, 1)]
)
def test_the_coordinator_knows_that_noise_without_an_accountant(stated: float, delta: float, every: int) -> None:
    asked = study({"validate_every": every}, epsilon=stated, delta=delta)
    planned_noise = plan._evaluation(EVALUATION_SHARE * stated, delta, evaluations(asked))
    sigma = gaussian_multiplier(asked, privacy_of(asked))
    assert planned_noise is not None
    assert sigma == pytest.approx(planned_noise.noise_multiplier, rel=0.02)
    for unknown in ({"noise_multiplier": 1.0}, {"epsilon": 3.0, "evaluation": "public"}):
        other = study(**unknown)
        assert gaussian_multiplier(other, privacy_of(other)) is None


@pytest.mark.parametrize("federation", [{}, {"validate_every": 6}, {"stop": {}}, {"rounds": 60}])
def test_subgroups_cost_as_much_as_all_other_histograms_together(federation: dict[str, object]) -> None:
    asked = study(federation)
    sigma = subgroups_multiplier(asked, 4.0)
    assert final_evaluations(asked) / sigma**2 == pytest.approx(evaluations(asked) / 4.0**2)


def test_clinics_tell_no_subgroups_by_clinic() -> None:
    content = {"evaluation": {"subgroups": ("source", "sex", "age")}}
    assert noised_attributes(StudyProtocol.model_validate(content)) == ("sex", "age")
    assert noised_attributes(StudyProtocol()) == ()
