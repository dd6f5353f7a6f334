"""Who is enough, who is chosen, and how those that are missing are told of; whole runs are in `test_rounds_members`."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.errors import DataError, DeclinedError, QuorumError
from melfed.common.study.protocol import FederationSpec, StudyProtocol
from melfed.server.federation.context import Conduct
from melfed.server.federation.members import Absent, Members
from melfed.server.federation.observer import Silent
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from tests.server.fakes import study_of


class Answer:
    """A reply that says no more than whether it declines."""

    def __init__(self, declined: str | None) -> None:
        self.declined = declined


def members(folder: Path, names: str = "", deployed: bool = False, **federation) -> Members:
    study = StudyProtocol(name="s", federation=FederationSpec(**federation))
    found = Members(study, RunFolder.create(folder / "run", study), Conduct(3, deployed=deployed), Silent())
    found.counts = {name: Counts(numbers={}, noise=0.0) for name in names}
    found.names = {100 + place: name for place, name in enumerate(names)}
    return found


def test_reasons_are_told_once_with_all_who_have_them_and_refusals_apart() -> None:
    absent = Absent()
    assert absent.reasons() == "no answer"
    absent.note("b", Answer(None), DataError("its loss is\n7"))  # type: ignore[arg-type]
    absent.note("a", Answer(None), DataError("its loss is\n7"))  # type: ignore[arg-type]
    absent.note("c", Answer("spent"), DeclinedError("spent"))  # type: ignore[arg-type]
    assert absent.reasons() == "a, b: its loss is 7; c declined: spent"
    absent.note("a", Answer("spent"), DeclinedError("spent"))  # type: ignore[arg-type]
    assert (absent.failed, absent.declined) == ({"b": "its loss is 7"}, {"c": "spent", "a": "spent"})
    absent.forget("c")
    assert absent.reasons() == "b: its loss is 7; a declined: spent"


@pytest.mark.parametrize(
    ("quorum", "asked", "needed"), [(0.5, 4, 2), (0.5, 5, 3), (1.0, 3, 3), (0.01, 3, 1), (0.3, 10, 3), (0.1, 30, 3)]
)
def test_a_quorum_is_a_share_of_those_asked_and_one_at_least(
    tmp_path: Path, quorum: float, asked: int, needed: int
) -> None:
    assert members(tmp_path, quorum=quorum).needed(asked) == needed


def test_what_the_aggregation_needs_is_never_less(tmp_path: Path) -> None:
    assert members(tmp_path, quorum=0.1, robust="krum").needed(8) == 5


def test_too_few_are_told_with_their_reasons_and_the_way_on_unless_all_declined(tmp_path: Path) -> None:
    found = members(tmp_path, quorum=1.0)
    found.need_quorum(3, 3, Absent())
    failed = Absent(failed={"a": "broken"}, declined={"b": "spent"})
    with pytest.raises(QuorumError) as refused:
        found.need_quorum(1, 3, failed)
    assert str(refused.value) == (
        "1 of 3 clinics answered, 3 are needed: a: broken; b declined: spent; mend that and go on with --resume "
        f"{tmp_path}/run"
    )
    with pytest.raises(QuorumError, match=r"3 are needed: b declined: spent$"):
        found.need_quorum(2, 3, Absent(declined={"b": "spent"}))
    with pytest.raises(QuorumError, match=r"go on with --resume run$"):
        members(tmp_path / "deployed", deployed=True).need_quorum(0, 3, Absent())


@settings(deadline=None, max_examples=25)
@given(cohort=st.floats(0.01, 1), seed=st.integers(0, 2**40), number=st.integers(1, 50))
def test_a_cohort_follows_from_seed_round_and_names_alone(cohort: float, seed: int, number: int) -> None:
    study = study_of(cohort=cohort).model_copy(update={"seed": seed})

    def chosen(names: str) -> list[str]:
        found = Members.__new__(Members)
        found.study, found.federation = study, study.federation
        found.counts = dict.fromkeys(names)  # type: ignore[assignment]
        return found.cohort(number)

    once = chosen("abcdefgh")
    assert chosen("hgfedcba") == once == sorted(set(once))
    assert 1 <= len(once) <= 8
    assert len(once) == 8 or cohort < 1


def test_nodes_are_those_of_the_clinics_named_and_each_has_a_label(tmp_path: Path) -> None:
    found = members(tmp_path, "abc")
    assert found.nodes_of(["c", "a", "x"]) == {100: "a", 102: "c"}
    assert (found.label(101), found.label(7)) == ("b", "node 7")


def test_the_clinics_are_remembered_by_whoever_goes_on(tmp_path: Path) -> None:
    found = members(tmp_path, "ab", deployed=True)
    found.remember()
    again = Members(found.study, found.folder, found.conduct, Silent())
    again._recall()
    assert again.counts == found.counts
