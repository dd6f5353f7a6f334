"""Who takes part in a deployed run: who is chosen, joins late, leaves, comes back as another, or is not let in."""

import threading
from pathlib import Path
from time import monotonic

import pytest
from flwr.app import ConfigRecord, RecordDict

from melfed.common import messages
from melfed.common.errors import QuorumError
from melfed.server.federation.context import StoppedError
from melfed.server.runs.state import read_state
from tests.server.fakes import INITIAL, FakeClinic, Run, Tamper, changed, clinics_of, study_of
from tests.server.lossy import Audit, LossyGrid, Trouble, counted, deployed, quickly

NAMES = frozenset("abc")
NEVER = 10**9


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


def run_of(
    path: Path,
    troubles: dict[str, Trouble] | None = None,
    *,
    names: str = "abc",
    rounds: int = 2,
    expected: int | frozenset[str] = NAMES,
    registered: bool = True,
    version: str = "",
    **federation,
) -> Run:
    study = study_of(rounds=rounds, **{"grace_seconds": 0.0, "quorum": 0.6, "deadline_seconds": 5.0, **federation})
    node = {name: 100 + index for index, name in enumerate(names)}
    grid = LossyGrid(
        {node[clinic.name]: clinic for clinic in clinics_of(study, names)},
        {node[name]: trouble for name, trouble in (troubles or {}).items()},
        {node[name]: name for name in names} if registered else None,
    )
    return deployed(path, study, grid, expected=expected, version=version)


def answered(run: Run) -> list[str]:
    return ["".join(event["answered"]) for event in run.events("round")]


def identity(**values: object) -> Tamper:
    return changed(identity=lambda c: ConfigRecord({**c.config_records["identity"], **values}))


def clinic(run: Run, name: str) -> FakeClinic:
    return next(clinic for clinic in run.grid.clinics.values() if clinic.name == name)


def audit(run: Run) -> Audit:
    return run.terms.audit


@pytest.mark.parametrize("registered", [True, False])
def test_the_run_begins_when_all_that_are_expected_are_there(tmp_path: Path, registered: bool) -> None:
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(1, 30)])}, registered=registered, grace_seconds=5.0)
    run.conduct()
    assert run.grid.ticks > 30
    assert answered(run) == ["abc", "abc"]
    assert not audit(run).of(2018), "nobody was late"


def test_only_those_that_the_run_is_for_are_asked(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", names="abcd")
    run.conduct()
    assert answered(run) == ["abc", "abc"]
    assert clinic(run, "d").asked == []
    unnamed = run_of(tmp_path / "two", names="abcd", registered=False)
    unnamed.conduct()
    assert answered(unnamed) == ["abc", "abc"]
    assert {kind for kind, _ in clinic(unnamed, "d").asked} == {messages.DESCRIBE}
    assert unnamed.events("round")[0]["failed"] == {"d": "clinic d is not among those that this run is for"}


def test_those_that_the_run_is_not_for_are_not_enough_to_begin_with(tmp_path: Path) -> None:
    """Two that are not invited and one that is are no quorum of the two that are: the other one is waited for."""
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(1, 30)])}, names="abcd", expected=frozenset("ab"), quorum=1.0)
    run.conduct()
    assert run.grid.ticks > 30
    assert answered(run) == ["ab", "ab"]


@pytest.mark.parametrize("limits", [{"deadline_seconds": 0.3, "grace_seconds": 60.0}, {"grace_seconds": 0.1}])
def test_after_grace_or_deadline_it_begins_with_a_quorum_and_whoever_comes_late_joins(
    tmp_path: Path, limits: dict[str, float]
) -> None:
    run = run_of(tmp_path / "run", rounds=3, **limits)
    late = run.grid.clinics.pop(102)
    run.grid.hook = lambda message: run.grid.clinics.update({102: late}) if message.metadata.group_id == "1" else None
    run.conduct()
    assert answered(run) == ["ab", "abc", "abc"]
    assert [(row["clinic"], row["round"]) for row in audit(run).of(2018)] == [("c", 2)]


def test_too_few_at_the_deadline_are_no_quorum_and_the_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melfed.server.federation.members.TOLD_SECONDS", 0.05)
    run = run_of(tmp_path / "run", dict.fromkeys("bc", Trouble(away=[(1, NEVER)])), deadline_seconds=0.2)
    told = "1 of 3 clinics answered, 2 are needed: b, c: offline; mend that and go on with --resume run$"
    with pytest.raises(QuorumError, match=told):
        run.conduct()
    assert read_state(run.folder.path).status == "failed"
    assert [(row["clinic"], row["reason"]) for row in audit(run).of(2009)] == [("b", "offline"), ("c", "offline")]


def test_whoever_leaves_for_ever_is_said_to_be_offline_and_counts_among_those_asked(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(8, NEVER)])}, rounds=4)
    outcome = run.conduct()
    assert answered(run)[-1] == "ac"
    assert run.events("round")[-1]["failed"] == {"b": "offline"}
    assert list(outcome.clinics) == ["a", "b", "c"]
    assert list(outcome.test) == ["a", "c"]
    strict = run_of(tmp_path / "two", {"b": Trouble(away=[(8, NEVER)])}, quorum=0.7, rounds=4, deadline_seconds=0.5)
    with pytest.raises(QuorumError, match="2 of 3 clinics answered, 3 are needed: b: offline"):
        strict.conduct()


def test_a_clinic_that_comes_back_describes_itself_again(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(6, 10)])}, rounds=6)
    run.conduct()
    assert answered(run)[-1] == "abc"
    described = {c.name: c.asked.count((messages.DESCRIBE, 0)) for c in run.grid.clinics.values()}
    assert described == {"a": 1, "b": 2, "c": 1}
    assert len(audit(run).of(2009)) == len(audit(run).of(2010)) == 1


def test_a_clinic_that_comes_back_with_another_study_is_let_in_no_more_and_the_others_go_on(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(6, 10)])}, rounds=6, version="1.0")
    seen: list[str] = []

    def older(content: RecordDict) -> RecordDict:
        seen.append("")
        old = {"digest": "f" * 64, "version": "0.9"} if len(seen) > 1 else {"version": "1.0"}
        return identity(**old)(content)

    clinic(run, "b").tamper = {messages.DESCRIBE: older}
    for name in "ac":
        clinic(run, name).tamper = {messages.DESCRIBE: identity(version="1.0")}
    run.conduct()
    assert answered(run)[-1] == "ac"
    reason = run.events("round")[-1]["failed"]["b"]
    assert reason.endswith("; it runs melfed 0.9, this server 1.0")
    assert [(row["clinic"], row["version"], row["expected"]) for row in audit(run).of(2019)] == [("b", "0.9", "1.0")]


def test_a_clinic_of_another_version_is_told_of_once_and_takes_part(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(6, 10)])}, rounds=6, version="1.0")
    for each in run.grid.clinics.values():
        each.tamper = {messages.DESCRIBE: identity(version="1.0" if each.name != "b" else "2.0\n\x1b")}
    run.conduct()
    assert answered(run)[-1] == "abc"
    assert [(row["clinic"], row["version"]) for row in audit(run).of(2019)] == [("b", "2.0 ?")]


def test_the_version_of_a_clinic_that_is_not_let_in_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", version="1.0")
    for each in run.grid.clinics.values():
        each.tamper = {messages.DESCRIBE: identity(version="1.0")}

    def refuse(_content: RecordDict) -> RecordDict:
        words, old = (
            ConfigRecord({"reason": "the coordinator speaks another protocol"}),
            ConfigRecord({"version": "0.9"}),
        )
        return RecordDict({"refused": words, "identity": old})

    clinic(run, "b").tamper = {messages.DESCRIBE: refuse}
    run.conduct()
    assert answered(run)[-1] == "ac"
    assert [(row["clinic"], row["version"], row["expected"]) for row in audit(run).of(2019)] == [("b", "0.9", "1.0")]


def refusing(kind: str, name: str, times: int) -> Tamper:
    """Refuse or decline the first times, under a name."""
    asked: list[str] = []

    def tamper(content: RecordDict) -> RecordDict:
        asked.append("")
        if len(asked) > times:
            return content
        return RecordDict({kind: ConfigRecord({"reason": "not yet"}), "identity": ConfigRecord({"clinic": name})})

    return tamper


@pytest.mark.parametrize("kind", ["refused", "declined"])
def test_a_clinic_that_declines_at_first_is_told_of_by_name_and_asked_in_each_round(tmp_path: Path, kind: str) -> None:
    run = run_of(tmp_path / "run", rounds=4, registered=False)
    clinic(run, "b").tamper = {messages.DESCRIBE: refusing(kind, "b", 3)}
    run.conduct()
    assert answered(run) == ["ac", "ac", "abc", "abc"]
    column = {"refused": "failed", "declined": "declined"}[kind]
    assert [event[column] for event in run.events("round")] == [{"b": "not yet"}, {"b": "not yet"}, {}, {}]


def test_nobody_is_told_of_under_the_name_of_a_clinic_that_takes_part(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", rounds=1, registered=False)
    clinic(run, "b").tamper = {messages.DESCRIBE: refusing("refused", "a", 9)}
    run.conduct()
    assert run.events("round")[0]["failed"] == {"node 101": "not yet"}


def test_a_name_is_that_of_the_key_that_was_registered(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", rounds=1)
    clinic(run, "b").tamper = {messages.DESCRIBE: identity(clinic="c")}
    run.conduct()
    assert answered(run) == ["ac"]
    assert run.events("round")[0]["failed"] == {"b": "calls itself c, but its key is registered as b"}


def test_a_clinic_with_a_new_key_takes_its_own_place(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(6, NEVER)])}, rounds=5)
    again = FakeClinic("b", run.study, images=30)

    def register(message) -> None:
        if message.metadata.group_id == "2":
            run.grid.clinics[500], run.grid.names[500] = again, "b"

    run.grid.hook = register
    run.conduct()
    assert answered(run)[-1] == "abc"
    assert counted([again], 5) == {"b": 1}
    assert list(run.events("round")[-1]["failed"]) == []


def test_a_second_node_of_a_name_is_refused_while_the_first_is_there(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", rounds=2)
    run.grid.clinics[500], run.grid.names[500] = FakeClinic("b", run.study, images=30), "b"
    run.conduct()
    assert answered(run) == ["abc", "abc"]
    assert [counted([c], 1)["b"] for node, c in run.grid.clinics.items() if c.name == "b"] in ([1, 0], [0, 1])


def test_the_clinics_of_a_run_are_remembered(tmp_path: Path) -> None:
    """A run that goes on knows who belongs to it, though one of them is not there just then."""
    study = study_of(rounds=3, quorum=0.6, grace_seconds=0.0, privacy={"evaluation": "public"})
    clinics = dict(enumerate(clinics_of(study), start=100))
    grid = LossyGrid(clinics, names=dict(enumerate("abc", start=100)))

    def stop(message) -> None:
        if message.metadata.group_id == "2":
            raise KeyboardInterrupt

    grid.hook = stop
    first = deployed(tmp_path / "run", study, grid, expected=NAMES)
    with pytest.raises(KeyboardInterrupt):
        first.conduct()
    del clinics[101]
    second = deployed(tmp_path / "run", study, LossyGrid(clinics, names=grid.names), expected=NAMES)
    started = monotonic()
    outcome = second.conduct()
    assert monotonic() - started < study.federation.deadline_seconds / 2, "who is gone is waited for no longer"
    assert answered(second) == ["abc", "ac", "ac"]
    assert second.events("round")[1]["failed"] == {"b": "offline"}
    assert list(outcome.clinics) == list(outcome.accounts) == ["a", "b", "c"]
    assert (second.folder.members.stat().st_mode & 0o777) == 0o600


@pytest.mark.parametrize("content", ["", "{", '{"clinics": {"a": 1}}'])
def test_a_damaged_register_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    run = run_of(tmp_path / "run")
    run.folder.members.write_text(content)
    run.conduct()
    assert answered(run) == ["abc", "abc"]


def test_stopping_is_written_down(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"b": Trouble(away=[(8, NEVER)])}, quorum=1.0, deadline_seconds=600.0)
    timer = threading.Timer(0.3, run.stop.set)
    timer.start()
    with pytest.raises(StoppedError, match="stopped early; go on with --resume"):
        run.conduct()
    timer.join()
    state = read_state(run.folder.path)
    assert (state.status, state.wanted) == ("stopped", False)
    assert len(audit(run).of(2013)) == 1


def test_a_simulation_writes_none_of_this(tmp_path: Path) -> None:
    study = study_of(rounds=1)
    run = Run(tmp_path / "run", study, LossyGrid(dict(enumerate(clinics_of(study), start=100))), INITIAL)
    run.grid.states  # noqa: B018
    run.grid.push_messages, run.grid.pull_messages = _at_once(run.grid)
    run.conduct()
    assert sorted(path.name for path in run.folder.path.iterdir()) == [
        "checkpoints", "metrics.jsonl", "run-id", "study.yaml"
    ]  # fmt: skip


def _at_once(grid: LossyGrid):
    from tests.server.fakes import FakeGrid

    plain = FakeGrid(grid.clinics)
    return plain.push_messages, plain.pull_messages
