"""Quorum and deadline by how long clinics say that a round takes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.study.protocol import FederationSpec
from melfed.server.federation.rehearsal import LONGEST_SECONDS, MARGIN, SHORTEST_SECONDS, propose

SPEC = FederationSpec()


@pytest.mark.parametrize(
    ("clinics", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 4), (8, 7), (10, 8), (20, 16), (100, 80)]
)
def test_so_many_must_answer(clinics: int, needed: int) -> None:
    proposed = propose(SPEC, {"a": 1}, clinics)
    assert proposed is not None
    assert math.ceil(proposed.quorum * clinics - 1e-9) == needed


@given(st.integers(1, 10_000), st.sampled_from([1.0, 0.5, 0.1]))
def test_from_three_on_one_may_be_away_and_never_is_one_alone_enough(clinics: int, cohort: float) -> None:
    spec = SPEC.model_copy(update={"cohort": cohort})
    proposed = propose(spec, {"a": 1}, clinics)
    assert proposed is not None
    asked = max(1, math.ceil(cohort * clinics - 1e-9))
    needed = math.ceil(proposed.quorum * asked - 1e-9)
    assert min(2, asked) <= needed <= max(asked - 1, min(2, asked))
    assert 0 < proposed.quorum <= 1
    FederationSpec(quorum=proposed.quorum, deadline_seconds=proposed.deadline_seconds)


def test_a_robust_mean_has_what_it_cannot_do_without() -> None:
    proposed = propose(FederationSpec(robust="krum"), {"a": 1}, 5)
    assert proposed is not None
    assert (proposed.quorum, proposed.quorum_reason) == (1.0, "5 of 5: federation.robust krum needs so many")


@pytest.mark.parametrize(
    ("minutes", "seconds", "reason"),
    [
        ({"a": 1, "b": 2}, SHORTEST_SECONDS, "the slowest, b, needs 2 min at most"),
        ({"a": 16, "b": 1}, MARGIN * 960.0, "4 times the slowest, a (16 min at most)"),
        ({"b": 16, "a": 16}, MARGIN * 960.0, "4 times the slowest, a (16 min at most)"),
        ({"a": 1 << 14}, LONGEST_SECONDS, "let it train less in each"),
    ],
)
def test_the_deadline_is_of_the_slowest_with_a_margin(minutes: dict[str, int], seconds: float, reason: str) -> None:
    proposed = propose(SPEC, minutes, 3)
    assert proposed is not None
    assert proposed.deadline_seconds == seconds
    assert reason in proposed.deadline_reason


def test_where_nobody_told_nothing_is_proposed() -> None:
    assert propose(SPEC, {}, 3) is None
