"""Early stopping: which validation is the best, and when a study ends."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from melfed.common.study.evaluation_noise import evaluations
from melfed.common.study.protocol import FederationSpec, StopSpec, StudyProtocol
from melfed.common.study.recipe import resolve
from melfed.common.study.stop import BestRound

VALUES = st.lists(st.one_of(st.none(), st.integers(0, 4).map(lambda value: value / 4)), max_size=12)


@given(VALUES, st.sampled_from(["auroc", "brier"]), st.integers(1, 4))
def test_the_best_is_the_first_of_the_best_and_the_end_comes_after_so_many_others(
    values: list[float | None], metric: str, patience: int
) -> None:
    spec, best = StopSpec(metric=metric, patience=patience), BestRound()
    for number, value in enumerate(values, start=1):
        best = best.after(spec, number, value)
    known = [(number, value) for number, value in enumerate(values, start=1) if value is not None]
    assert best.seen == len(values)
    if not known:
        assert (best.round, best.value, best.ends(spec)) == (0, None, False)
        return
    extreme = (min if metric == "brier" else max)(value for _, value in known)
    first = next(number for number, value in known if value == extreme)
    assert (best.round, best.value) == (first, extreme)
    assert best.ends(spec) == (sum(number > first for number, _ in known) >= patience)


def test_a_round_is_looked_at_once_and_what_is_kept_reads_back() -> None:
    spec = StopSpec()
    best = BestRound().after(spec, 1, 0.1 + 0.2)
    assert best.after(spec, 1, 0.9) is best
    assert BestRound(**json.loads(json.dumps(best.content()))) == best


def test_without_the_key_nothing_ends() -> None:
    assert not BestRound(9, 1, 0.5, 8).ends(None)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"federation": {"stop": {"patience": 0}}}, "patience"),
        ({"federation": {"stop": {"metric": "loss"}}}, "metric"),
        ({"federation": {"stop": {}, "tail_average": 0.5}}, "leave out one of them"),
        (
            {"federation": {"stop": {"metric": "brier"}}, "privacy": {"unit": "patient", "epsilon": 3.0}},
            "brier is not measured on noised histograms",
        ),
    ],
)
def test_what_cannot_be_is_refused(sections: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        StudyProtocol.model_validate(sections)


def test_a_private_study_that_stops_early_is_validated_some_times_and_once_more_in_the_end() -> None:
    private = {"privacy": {"unit": "patient", "epsilon": 3.0}}
    study = resolve(StudyProtocol.model_validate({"federation": {"stop": {}}, **private}))[0]
    assert (study.federation.rounds, study.federation.validate_every, study.federation.tail_average) == (60, 6, 0.0)
    # Rounds 6, 12, …, 54, the last one's, and that of the best round.
    assert evaluations(study) == 9 + 1 + 1
    plain = StudyProtocol(federation=FederationSpec(rounds=5))
    assert evaluations(plain) == 5
