"""The round loop with clinics that keep to their own policy: they decline, nothing has failed, and the others go on."""

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, RecordDict

from melfed.common import messages
from melfed.common.errors import QuorumError
from tests.server.fakes import Run, Tamper, assert_equal, clinics_of, grid_of, study_of

REASON = "of these patients' ε = 3, 2.9\nis spent"
TOLD = "of these patients' ε = 3, 2.9 is spent"


def declines(reason: str = REASON) -> Tamper:
    return lambda _content: RecordDict({"declined": ConfigRecord({"reason": reason})})


def from_round(first: int) -> Tamper:
    """Decline from a round on."""

    def tamper(content: RecordDict) -> RecordDict:
        number = content.config_records["request"]["round"]
        return declines()(content) if int(str(number)) >= first else content

    return tamper


def run_of(path: Path, quorum: float, clinic: int, tamper: dict[str, Tamper], rounds: int = 3) -> Run:
    study = study_of(rounds=rounds, quorum=quorum)
    clinics = clinics_of(study)
    clinics[clinic].tamper = tamper
    return Run(path, study, grid_of(clinics))


def test_a_clinic_that_declines_the_study_is_told_of_in_every_round_and_asked_no_more(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", 0.5, 1, {messages.DESCRIBE: declines()})
    outcome = run.conduct()
    assert list(outcome.clinics) == list(outcome.test) == ["a", "c"]
    for event in run.events("round"):
        assert (event["answered"], event["failed"]) == (["a", "c"], {})
        assert event["declined"] == {"node 101": TOLD}
    assert run.grid.clinics[101].asked == [(messages.DESCRIBE, 0)]
    assert run.observer.of("declined") == [("declined", "node 101", TOLD)]
    alone = Run(tmp_path / "alone", run.study, grid_of([c for c in clinics_of(run.study) if c.name != "b"]))
    assert_equal(outcome.models[""], alone.conduct().models[""])


def test_a_clinic_that_declines_a_round_is_asked_again_in_the_next(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", 0.5, 2, {messages.TRAIN: from_round(2)})
    outcome = run.conduct()
    told = [(event["answered"], event["failed"], event["declined"]) for event in run.events("round")]
    assert told == [(["a", "b", "c"], {}, {}), *[(["a", "b"], {}, {"c": TOLD})] * 2]
    assert run.observer.of("declined") == [("declined", "c", TOLD)] * 2
    assert not [call for call in run.observer.of("replied") if call[2]], "nothing has failed"
    assert (messages.TRAIN, 3) in run.grid.clinics[102].asked
    assert list(outcome.test) == ["a", "b", "c"], "it may still let its patients be evaluated"
    clinics = clinics_of(run.study)
    clinics[2].tamper = {
        messages.TRAIN: lambda c: Error(code=1, reason="ill") if c.config_records["request"]["round"] > 1 else c
    }
    ill = Run(tmp_path / "ill", run.study, grid_of(clinics)).conduct()
    assert_equal(outcome.models[""], ill.models[""])


def test_a_clinic_that_declines_the_evaluation_is_left_out_of_it(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", 0.5, 0, {messages.EVALUATE: declines()}, rounds=1)
    outcome = run.conduct()
    assert list(outcome.test) == ["b", "c"]
    assert list(outcome.clinics) == ["a", "b", "c"]
    assert run.observer.of("declined") == [("declined", "a", TOLD)]
    assert run.events("round")[0]["declined"] == {}


@pytest.mark.parametrize("content", [{}, {"reason": ""}])
def test_declining_needs_no_reason(tmp_path: Path, content: dict[str, str]) -> None:
    def silently(_content: RecordDict) -> RecordDict:
        return RecordDict({"declined": ConfigRecord(content)})

    run = run_of(tmp_path / "run", 0.5, 2, {messages.TRAIN: silently}, rounds=1)
    run.conduct()
    assert run.events("round")[0]["declined"] == {"c": "declined without a reason"}


def test_whoever_declines_and_trains_all_the_same_is_taken_at_its_word(tmp_path: Path) -> None:
    def both(content: RecordDict) -> RecordDict:
        content["declined"] = ConfigRecord({"reason": "no"})
        return content

    run = run_of(tmp_path / "run", 0.5, 2, {messages.TRAIN: both}, rounds=1)
    run.conduct()
    assert run.events("round")[0]["answered"] == ["a", "b"]
    assert run.events("round")[0]["declined"] == {"c": "no"}


@pytest.mark.parametrize(
    ("kind", "who"), [(messages.DESCRIBE, "node 101"), (messages.TRAIN, "b"), (messages.EVALUATE, "b")]
)
def test_too_few_without_them_end_the_run_and_say_who_declined(tmp_path: Path, kind: str, who: str) -> None:
    run = run_of(tmp_path / "run", 1.0, 1, {kind: declines()})
    with pytest.raises(QuorumError) as caught:
        run.conduct()
    assert str(caught.value) == (f"2 of 3 clinics answered, 3 are needed: {who} declined: {TOLD}"), (
        "nobody is told to mend what the clinic has decided"
    )


def test_those_who_failed_and_those_who_declined_are_told_apart(tmp_path: Path) -> None:
    study = study_of(4, rounds=1, quorum=0.5)
    clinics = clinics_of(study, "abcd")
    clinics[0].tamper = {messages.TRAIN: declines()}
    clinics[1].tamper = {messages.TRAIN: lambda _content: Error(code=1, reason="ill")}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    run.conduct()
    (event,) = run.events("round")
    assert (event["answered"], event["failed"], event["declined"]) == (["c", "d"], {"b": "ill"}, {"a": TOLD})
    clinics[2].tamper = {messages.TRAIN: declines("no")}
    with pytest.raises(QuorumError, match=r"1 of 4 clinics answered, 2 are needed: b: ill; a declined: .*; c declined"):
        Run(tmp_path / "two", study, grid_of(clinics)).conduct()


def test_all_declining_is_no_quorum_however_small_it_is(tmp_path: Path) -> None:
    study = study_of(2, rounds=1, quorum=0.01)
    clinics = clinics_of(study, "ab")
    for clinic in clinics:
        clinic.tamper = {messages.TRAIN: declines("no")}
    with pytest.raises(QuorumError, match=r"0 of 2 clinics answered, 1 are needed: a, b declined: no$"):
        Run(tmp_path / "run", study, grid_of(clinics)).conduct()


def test_a_clinic_that_has_changed_its_mind_takes_part_when_the_run_goes_on(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", 0.5, 1, {messages.DESCRIBE: declines()})
    for node in (100, 102):
        run.grid.clinics[node].tamper = {messages.EVALUATE: lambda _content: Error(code=1, reason="ill")}
    with pytest.raises(QuorumError, match="0 of 2 clinics"):
        run.conduct()
    for clinic in run.grid.clinics.values():
        clinic.tamper = {}
    assert list(run.conduct().test) == ["a", "b", "c"]
