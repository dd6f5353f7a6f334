"""Which question a charge answers, and the counts that a ledger keeps and repeats."""

from pathlib import Path

import pytest

from melfed.client.ledger.ledger import Charge, Ledger, continue_with, verify
from melfed.client.privacy import accounting
from melfed.common.errors import DeclinedError, LedgerError
from tests.client.ledger.ledgers import DATA, FREE, charge, cheap_epsilon

FIRST, SECOND = "1" * 64, "2" * 64
COUNTS = (120, 17, -3, 0)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def release(ledger: Ledger, wish: Charge, values: tuple[int, ...] | None = None) -> None:
    reservation = ledger.reserve(wish, FREE)
    ledger.mark(reservation, "spent")
    ledger.mark(reservation, "released", values=values)


def test_another_question_is_another_charge_and_the_same_takes_up_what_it_has_reserved(path: Path) -> None:
    for request, number in ((FIRST, 1), (SECOND, 2), (FIRST, 1), (None, 3), (SECOND, 2)):
        with Ledger.open(path, DATA) as ledger:
            assert ledger.reserve(charge(request=request), FREE).number == number
    assert [row.request for row in verify(path).rows] == [FIRST, SECOND, None]


def test_a_kept_result_is_settled_for_its_own_question(path: Path) -> None:
    with Ledger.open(path, DATA) as ledger:
        ledger.mark(ledger.reserve(charge(request=FIRST), FREE), "spent")
    Ledger.open(path, DATA).settle(charge(request=SECOND))
    assert [row.status for row in verify(path).rows] == ["reserved", "spent"]
    Ledger.open(path, DATA).settle(charge(request=FIRST))
    assert [row.status for row in verify(path).rows] == ["reserved", "spent", "released"]


@pytest.mark.parametrize("request_digest", ["x" * 64, "", "7" * 63])
def test_what_is_no_digest_of_a_question_is_declined(path: Path, request_digest: str) -> None:
    with Ledger.open(path, DATA) as ledger, pytest.raises(DeclinedError, match="request: "):
        ledger.reserve(charge(request=request_digest), FREE)
    assert not path.read_bytes()


def test_released_counts_are_repeated_to_every_reader_of_the_same_run(path: Path) -> None:
    wish = charge(0, purpose="counts")
    with Ledger.open(path, DATA) as ledger:
        assert ledger.values(wish) is None
        reservation = ledger.reserve(wish, FREE)
        ledger.mark(reservation, "spent")
        assert ledger.values(wish) is None, "what has not left yet is drawn anew"
        ledger.mark(reservation, "released", values=COUNTS)
        assert ledger.values(wish) == COUNTS
    again = Ledger.open(path, DATA)
    assert again.values(wish) == again.values(charge(3)) == COUNTS
    assert again.values(charge(0, purpose="counts", run="b")) is None
    assert again.values(charge(0, purpose="counts", study="6" * 64)) is None
    assert [row.values for row in verify(path).rows] == [None, None, COUNTS]


def test_counts_that_were_told_are_not_replaced_by_later_ones(path: Path) -> None:
    wish = charge(0, purpose="counts")
    with Ledger.open(path, DATA) as ledger:
        release(ledger, wish, COUNTS)
        release(ledger, wish, (1, 2))
        assert ledger.values(wish) == COUNTS


def test_counts_of_data_that_have_changed_are_not_repeated(path: Path) -> None:
    wish = charge(0, purpose="counts")
    with Ledger.open(path, DATA) as ledger:
        release(ledger, wish, COUNTS)
    assert continue_with(path, "e" * 64, "Dr. Example")
    assert Ledger.open(path, "e" * 64).values(wish) is None


@pytest.mark.parametrize("values", [(), (1,) * 17, (2**60,)])
def test_values_that_are_no_counts_cannot_be_released(path: Path, values: tuple[int, ...]) -> None:
    wish = charge(0, purpose="counts")
    with Ledger.open(path, DATA) as ledger, pytest.raises(LedgerError, match="values"):
        release(ledger, wish, values)
    assert [row.status for row in verify(path).rows] == ["reserved", "spent"]
