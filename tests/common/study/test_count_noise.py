"""How much noise a study's numbers of units may have."""

import pytest

from melfed.client.privacy import plan
from melfed.client.privacy.plan import plan_of
from melfed.common.study.count_noise import largest_count_noise, unit_parts
from melfed.server.runs.counts import PARTS
from tests.server.fakes import (
    study_of,
)

NOISED, PUBLIC = {"epsilon": 3.0}, {"epsilon": 3.0, "evaluation": "public"}


@pytest.mark.parametrize("delta", [1e-9, 1e-5, 1e-3])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 300.0])
def test_the_noise_that_a_clinic_plans_is_believed(epsilon: float, delta: float) -> None:
    study = study_of(privacy={"epsilon": epsilon, "delta": delta, "evaluation": "public"})
    assert study.privacy is not None
    counts = plan._counts(epsilon, delta)
    if (epsilon, delta) == (8.0, 1e-5):  # a whole plan takes seconds
        assert plan_of(study).counts == counts
    planned = counts.noise_multiplier
    assert planned <= largest_count_noise(study.privacy)
    if epsilon <= 8:
        assert largest_count_noise(study.privacy) < 2.5 * planned


def test_the_parts_are_those_that_a_clinic_counts_in_units() -> None:
    assert unit_parts(study_of()) == ()
    assert unit_parts(study_of(privacy=PUBLIC)) == ("train",)
    assert unit_parts(study_of(privacy=NOISED)) == PARTS
