"""The round loop of a deployment whose clinics vanish, come back, crash and answer twice."""

import tempfile
from pathlib import Path
from time import monotonic

import pytest
from flwr.app import RecordDict
from flwr.common.constant import ErrorCode
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common import messages
from melfed.common.errors import QuorumError
from melfed.server.flower import channel as exchange
from melfed.server.runs.state import read_state
from tests.server.fakes import Run, assert_equal, clinics_of, grid_of, study_of
from tests.server.lossy import LossyGrid, Trouble, counted, deployed, quickly


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


def nodes_of(clinics) -> dict[int, object]:
    return dict(enumerate(clinics, start=100))


def run_of(path: Path, trouble: Trouble, *, names: str = "abc", rounds: int = 2, **federation) -> Run:
    """A run whose clinic b is in trouble."""
    study = study_of(rounds=rounds, **{"grace_seconds": 0.0, **federation})
    registered = dict(enumerate(names, start=100))
    return deployed(path, study, LossyGrid(nodes_of(clinics_of(study, names)), {101: trouble}, registered))


def without_trouble(path: Path, run: Run) -> Run:
    whole = Run(path, run.study, grid_of(clinics_of(run.study)))
    whole.conduct()
    return whole


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble(away=[(6, 12)]),
        Trouble(away=[(6, 12)], forgets=False),
        Trouble(away=[(6, 7)]),
        Trouble(away=[(6, 9), (11, 14)], slow=3),
        Trouble(away=[(4, 30)], forgets=False, slow=4),
        Trouble(crashes=2),
        Trouble(crashes=7),
        Trouble(crashes=2, code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION),
        Trouble(crashes=2, code=ErrorCode.LOAD_CLIENT_APP_EXCEPTION),
    ],
)
def test_a_lost_clinic_is_asked_again_and_nothing_is_lost(tmp_path: Path, trouble: Trouble) -> None:
    run = run_of(tmp_path / "run", trouble)
    outcome = run.conduct()
    whole = without_trouble(tmp_path / "whole", run)
    assert run.timeless() == whole.timeless()
    assert list(outcome.test) == ["a", "b", "c"]
    lost, returned = run.terms.audit.of(2009), run.terms.audit.of(2010)
    assert lost
    assert {row["clinic"] for row in (*lost, *returned)} == {"b"}
    assert len(lost) == len(returned)
    assert not run.terms.audit.of(2007)
    for number in (1, 2):
        asked = counted(run.grid.clinics.values(), number)
        assert asked["a"] == asked["c"] == 1


def test_a_restart_between_two_looks_is_seen_by_the_time_of_its_return(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", Trouble(slow=4))
    grid, looks = run.grid, []

    def hook(message) -> None:
        if message.metadata.message_type == messages.TRAIN and message.metadata.dst_node_id == 101 and not looks:
            looks.append(grid.ticks)

    def restart() -> None:
        if looks and grid.ticks == looks[0] + 2:
            grid.states[101].returns += 1
            grid._forget(101)

    grid.hook = hook
    get_nodes = grid.get_nodes
    grid.get_nodes = lambda: (restart(), get_nodes())[1]
    run.conduct()
    assert [row["reason"] for row in run.terms.audit.of(2009)] == [
        "it was away for a moment, or its SuperNode was started anew"
    ]
    assert run.events("round")[0]["answered"] == ["a", "b", "c"]


def test_an_earlier_attempt_that_was_forgotten_is_not_waited_for(tmp_path: Path) -> None:
    """Its SuperNode was started anew, and then the ClientApp of the second attempt crashed."""
    run = run_of(tmp_path / "run", Trouble(away=[(14, 17)], slow=6, crashes=1), rounds=1)
    run.conduct()
    assert [row["reason"] for row in run.terms.audit.of(2009)] == ["offline", "ClientApp stopped responding."]
    (event,) = run.events("round")
    assert event["answered"] == ["a", "b", "c"]
    assert event["seconds"] < run.study.federation.deadline_seconds * exchange.REMINDER / 2


def test_the_answer_of_an_earlier_attempt_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SuperNode that was cut off goes on working, and answers what it was asked before."""
    monkeypatch.setattr(exchange, "FIRST_PAUSE_SECONDS", 100.0)
    run = run_of(tmp_path / "run", Trouble(away=[(14, 17)], slow=6, forgets=False), rounds=1, deadline_seconds=3.0)
    run.conduct()
    assert run.events("round")[0]["answered"] == ["a", "b", "c"]
    assert [(row["clinic"], row["round"]) for row in run.terms.audit.of(2010)] == [("b", 1)]
    sent = [m for m in run.grid.sent if m.metadata.message_type == messages.TRAIN and m.metadata.dst_node_id == 101]
    assert len(sent) == 1


def test_a_clinic_whose_app_raises_three_times_has_failed(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "run",
        Trouble(crashes=3, code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION),
        rounds=1,
        quorum=0.6,
        grace_seconds=5.0,
    )
    run.conduct()
    (event,) = run.events("round")
    assert (event["answered"], event["failed"]) == (["a", "c"], {"b": "ClientApp stopped responding."})
    sent = [m for m in run.grid.sent if m.metadata.message_type == messages.TRAIN and m.metadata.dst_node_id == 101]
    assert len(sent) == exchange.ATTEMPTS


def test_a_bundle_that_is_refused_is_not_offered_again(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", Trouble(crashes=1, code=ErrorCode.INVALID_FAB), rounds=1, quorum=0.6)
    run.conduct()
    assert run.events("round")[0]["answered"] == ["a", "c"]


def test_declining_is_final_for_the_round(tmp_path: Path) -> None:
    from tests.server.federation.test_rounds_declined import declines

    run = run_of(tmp_path / "run", Trouble(), quorum=0.6)
    run.grid.clinics[101].tamper = {messages.TRAIN: declines("no")}
    run.conduct()
    assert [event["declined"] for event in run.events("round")] == [{"b": "no"}] * 2
    assert counted(run.grid.clinics.values(), 1)["b"] == 1
    assert [row["clinic"] for row in run.terms.audit.of(2008)] == ["b", "b"]


def test_with_a_quorum_the_lost_are_waited_for_no_longer_than_the_grace_period(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", Trouble(away=[(6, 10**9)]), quorum=0.6, grace_seconds=2.0, rounds=4)
    run.conduct()
    seconds = [event["seconds"] for event in run.events("round")]
    assert seconds[0] >= 2.0
    assert max(seconds[1:]) < 2.0, "who was lost in an earlier round has had its grace"
    assert [event["failed"] for event in run.events("round")] == [{"b": "offline"}] * 4
    assert len(run.terms.audit.of(2009)) == 1, "told once, not in every round"


def test_without_a_quorum_the_lost_are_waited_for_until_the_deadline(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", Trouble(away=[(6, 10**9)]), deadline_seconds=0.5)
    started = monotonic()
    with pytest.raises(QuorumError, match="2 of 3 clinics answered, 3 are needed: b: offline"):
        run.conduct()
    assert 0.5 <= monotonic() - started < 3
    state = read_state(run.folder.path)
    assert (state.status, state.wanted, state.round) == ("failed", False, 0)
    assert state.reason.startswith("quorum: 2 of 3 clinics answered")
    assert run.terms.audit.of(2012)[0]["code"] == 7


def test_a_clinic_that_is_back_is_waited_for_though_there_is_a_quorum(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", Trouble(away=[(6, 9)], slow=30), quorum=0.6, grace_seconds=2.0, rounds=1)
    run.conduct()
    assert run.events("round")[0]["answered"] == ["a", "b", "c"]


def test_a_message_lives_no_longer_than_its_round(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", Trouble(crashes=3), deadline_seconds=20.0, rounds=1)
    run.conduct()
    sent = [m for m in run.grid.sent if m.metadata.message_type == messages.TRAIN]
    assert len(sent) == 6
    assert all(18 < message.metadata.ttl <= 20 + exchange.SLACK_SECONDS for message in sent)
    assert sent[-1].metadata.ttl < sent[0].metadata.ttl


def test_an_online_clinic_that_says_nothing_is_reminded(tmp_path: Path) -> None:
    """Flower's SuperNode forgets, without a word, a message whose content it could not fetch."""
    run = run_of(tmp_path / "run", Trouble(), deadline_seconds=1.5, rounds=1)
    lost: list[str] = []

    def swallow(content: RecordDict) -> RecordDict | None:
        lost.append("")
        return None if len(lost) == 1 else content

    run.grid.clinics[101].tamper = {messages.TRAIN: swallow}
    run.conduct()
    assert run.events("round")[0]["answered"] == ["a", "b", "c"]
    assert 0.5 <= run.events("round")[0]["seconds"] < 1.4


def spans() -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8)).map(lambda s: (s[0], s[0] + s[1])), max_size=4)


TROUBLES = st.builds(Trouble, away=spans(), forgets=st.booleans(), slow=st.integers(0, 5), crashes=st.integers(0, 2))


@settings(deadline=None, max_examples=30)
@given(troubles=st.lists(TROUBLES, min_size=3, max_size=3))
def test_whatever_is_lost_no_answer_counts_twice_and_the_model_is_the_same(troubles: list[Trouble]) -> None:
    study = study_of(rounds=2, grace_seconds=0.0)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        quickly(patch)
        whole = Run(Path(folder, "whole"), study, grid_of(clinics_of(study)))
        expected = whole.conduct()
        clinics = clinics_of(study)
        grid = LossyGrid(nodes_of(clinics), dict(enumerate(troubles, start=100)))
        run = deployed(Path(folder, "run"), study, grid)
        outcome = run.conduct()
        assert_equal(outcome.models[""], expected.models[""])
        assert run.timeless() == whole.timeless()
        assert read_state(run.folder.path).round == 2
