"""Whatever dies, at whatever point: nothing leaves that was not paid for, and nothing is paid for twice."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.ledger.ledger import Ledger, verify
from melfed.client.privacy import accounting
from melfed.client.worker.guard import Request
from melfed.client.worker.reply_store import ReplyStore
from tests.client.guards import ONE_CHARGE, Work, guard_of, request, result, statuses
from tests.client.ledger.ledgers import cheap_epsilon


class DiedError(BaseException):
    """The process is gone."""


KILLS = [
    "in the work",
    "before spent",
    "after spent",
    "before saved",
    "after saved",
    "before released",
    "after released",
]


def kill(at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next payment die at a point."""

    def dying(original: Callable[..., object], when: str, status: str | None = None) -> Callable[..., object]:
        def call(self: object, *arguments: object) -> object:
            mine = status is None or arguments[1] == status
            if mine and when == "before":
                raise DiedError
            value = original(self, *arguments)
            if mine and when == "after":
                raise DiedError
            return value

        return call

    when, _, what = at.partition(" ")
    if what == "saved":
        monkeypatch.setattr(ReplyStore, "save", dying(ReplyStore.save, when))
    elif when != "in":
        monkeypatch.setattr(Ledger, "mark", dying(Ledger.mark, when, what))


def attempt(folder: Path, asked: Request, work: Work, at: str | None) -> int | None:
    """Ask a new process; return what leaves it, None where it dies."""

    def compute() -> dict[str, np.ndarray]:
        arrays = work()
        if at == "in the work":
            raise DiedError
        return arrays

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "epsilon", cheap_epsilon)
        if at is not None:
            kill(at, patch)
        try:
            return result(guard_of(folder).pay("training", asked, compute))
        except DiedError:
            return None


@pytest.mark.parametrize("at", KILLS)
def test_after_a_death_the_same_request_is_answered_for_one_price(tmp_path: Path, at: str) -> None:
    work = Work()
    assert attempt(tmp_path, request(), work, at) is None
    assert statuses(tmp_path)[0] == (1, "reserved")
    left = attempt(tmp_path, request(), work, None)
    # Once the result is kept, it is that one which leaves.
    assert (left, work.done) == ((1, 1) if at in KILLS[4:] else (2, 2))
    assert statuses(tmp_path) == ONE_CHARGE
    assert attempt(tmp_path, request(), work, None) == left


@pytest.mark.parametrize("at", KILLS)
def test_after_a_death_another_model_is_never_free_of_what_may_have_left(tmp_path: Path, at: str) -> None:
    work = Work()
    attempt(tmp_path, request(1.0), work, at)
    assert attempt(tmp_path, request(2.0), work, None) == 2
    # Another model is another question, whether or not the first one's result can have left.
    assert len({charge for charge, _ in statuses(tmp_path)}) == 2
    # The first model's result is no longer there. It costs again where it may have left.
    assert attempt(tmp_path, request(1.0), work, None) == 3
    assert len({charge for charge, _ in statuses(tmp_path)}) == (3 if at == "after released" else 2)


attempts = st.tuples(st.sampled_from([1.0, 2.0]), st.integers(1, 2), st.sampled_from([None, None, *KILLS]))


@given(st.lists(attempts, min_size=1, max_size=9))
@settings(deadline=None, max_examples=40)
def test_no_two_results_leave_for_the_price_of_one(sequence: list[tuple[float, int, str | None]]) -> None:
    work, left = Work(), set[tuple[int, int]]()
    with tempfile.TemporaryDirectory() as name:
        for model, round_number, at in sequence:
            got = attempt(Path(name), request(model, round_number), work, at)
            if got is not None:
                left.add((round_number, got))
            rows = verify(Path(name) / "north.jsonl").rows
            for number in (1, 2):
                released = [row for row in rows if row.round == number and row.status == "released"]
                assert len([1 for of, _ in left if of == number]) <= len(released)
