"""The privacy ledger: it counts all that has left, whatever happens, and lets nothing through beyond the budget."""

import json
import math
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.ledger.budget import Budget
from melfed.client.ledger.disk import Disk
from melfed.client.ledger.journal import head_of
from melfed.client.ledger.ledger import Charge, Ledger, Reservation, continue_with, verify
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.errors import DeclinedError, LedgerError, StorageError
from melfed.common.hash_chain import GENESIS
from tests.client.ledger.fake_disk import FakeDisk
from tests.client.ledger.ledgers import (
    DATA,
    DELTA,
    FREE,
    MECHANISM,
    STUDY,
    charge,
    cheap_epsilon,
    spend,
    too_little,
    written,
)

PATH = Path("ledger.jsonl")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / "north.jsonl"


@pytest.fixture(scope="module")
def three_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "epsilon", cheap_epsilon)
        return written(tmp_path_factory.mktemp("ledger") / "a.jsonl", 3)


def statuses(path: Path) -> list[tuple[int, str]]:
    return [(row.charge, row.status) for row in verify(path).rows]


def test_a_new_ledger_is_empty_in_a_private_folder(path: Path) -> None:
    ledger = Ledger.open(path, DATA)
    assert (ledger.rows, ledger.head, ledger.epsilon(DELTA)) == ((), GENESIS, 0)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.exists()


def test_a_charge_has_three_rows_with_all_that_it_is(path: Path) -> None:
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(3, purpose="evaluation"))
        spend(ledger, charge(4))
        assert ledger.epsilon(DELTA) == cheap_epsilon([MECHANISM, MECHANISM], DELTA)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["status"] for row in rows] == ["reserved", "spent", "released"] * 2
    assert [row["charge"] for row in rows] == [1, 1, 1, 2, 2, 2]
    assert [row["purpose"] for row in rows] == ["evaluation"] * 3 + ["training"] * 3
    assert [row["epsilon"] for row in rows] == [0.5] * 3 + [1.0] * 3
    common = {"data": DATA, "study": STUDY, "run": "run", "unit": "patient", "delta": DELTA}
    mechanism = {"sampling_rate": 0.1, "noise_multiplier": 2.0, "steps": 10}
    for row in rows:
        assert {**row, **common, **mechanism} == row
        assert abs(datetime.fromisoformat(row["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
    again = Ledger.open(path, DATA)
    assert (again.head, again.rows) == (rows[-1]["hash"], ledger.rows)
    assert path.stat().st_mode & 0o777 == 0o600


def test_costs_compose_over_rounds_runs_and_studies(path: Path) -> None:
    asked = [charge(1), charge(2, Mechanism(0.5, 1.0, 3)), charge(1, run="other"), charge(1, study="6" * 64)]
    for wish in asked:
        with Ledger.open(path, DATA) as ledger:
            spend(ledger, wish)
    assert Ledger.open(path, DATA).epsilon(DELTA) == cheap_epsilon([wish.mechanism for wish in asked], DELTA)


def test_a_reservation_costs_at_once_and_for_ever(path: Path) -> None:
    Ledger.open(path, DATA).reserve(charge(1), FREE)
    assert Ledger.open(path, DATA).epsilon(DELTA) == 0.5
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(2))
    assert Ledger.open(path, DATA).epsilon(DELTA) == 1.0


def test_more_than_is_left_is_declined_with_how_much_that_is(path: Path) -> None:
    budget = Budget(1.2, DELTA)
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(1), budget)
        spend(ledger, charge(2), budget)
        before = path.read_bytes()
        with too_little() as caught:
            ledger.reserve(charge(3), budget)
        assert path.read_bytes() == before
        spend(ledger, charge(3, Mechanism(0.1, 2.0, 4)), budget)
    told = "too little is left of these patients' ε for training in round 3 (q = 0.1, σ = 2, 10 steps)"
    assert str(caught.value) == told
    assert caught.value.figures == (
        "of ε = 1.2 at δ = 1e-05, 1 is spent and 0.2 is left; this needs 0.5; 4 of its steps would still fit"
    )


def test_the_budget_may_be_used_up_exactly_but_not_by_a_hair_more(path: Path) -> None:
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(1), Budget(0.5, DELTA))
        with too_little("; 0 of its steps would still fit"):
            ledger.reserve(charge(2, Mechanism(2**-20, 2.0**10, 1)), Budget(0.5, DELTA))
        with pytest.raises(DeclinedError):
            ledger.reserve(charge(2), Budget(math.nan, DELTA))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=8),
    st.integers(1, 60),
)
def test_no_sequence_of_charges_exceeds_the_budget_and_what_fits_is_let_through(
    asked: list[tuple[int, int]], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "epsilon", cheap_epsilon)
        ledger, total = Ledger.open(PATH, DATA, disk=FakeDisk()), 0.0
        for number, (steps, halvings) in enumerate(asked):
            mechanism = Mechanism(2.0**-halvings, 1.0, steps)
            cost = cheap_epsilon([mechanism], DELTA)
            if total + cost <= limit:
                spend(ledger, charge(number, mechanism), Budget(limit, DELTA))
                total += cost
            else:
                fit = int((limit - total) / (cost / steps))  # a power of two, so nothing is rounded
                with too_little(f"; {fit} of its steps"):
                    ledger.reserve(charge(number, mechanism), Budget(limit, DELTA))
            assert ledger.epsilon(DELTA) == total


def test_without_noise_the_total_is_unbounded_and_no_budget_holds_any_more(path: Path) -> None:
    noiseless = charge(1, Mechanism(1.0, 0.0, 5))
    with Ledger.open(path, DATA) as ledger:
        with too_little("needs more than any ε; 0 of its steps"):
            ledger.reserve(noiseless, Budget(1000.0, DELTA))
        spend(ledger, noiseless)
        spend(ledger, charge(2))
        assert ledger.epsilon(DELTA) == math.inf
        with too_little("more than any ε is spent and 0 is left"):
            ledger.reserve(charge(3), Budget(1000.0, DELTA))
    assert [row.epsilon for row in verify(path).rows] == [None] * 6
    assert '"epsilon":null' in path.read_text()


def test_a_charge_that_was_never_released_is_taken_again_without_cost(path: Path) -> None:
    budget = Budget(0.5, DELTA)
    for marked in (False, True, True):
        with Ledger.open(path, DATA) as ledger:
            reservation = ledger.reserve(charge(1), budget)
            if marked:
                ledger.mark(reservation, "spent")
    assert statuses(path) == [(1, "reserved"), (1, "spent")]
    with Ledger.open(path, DATA) as ledger:
        ledger.mark(ledger.reserve(charge(1), budget), "released")
        with pytest.raises(DeclinedError):
            ledger.reserve(charge(1), budget)
        spend(ledger, charge(1))
    assert statuses(path) == [(n, status) for n in (1, 2) for status in ("reserved", "spent", "released")]


@pytest.mark.parametrize(
    "other",
    [
        charge(2),
        charge(1, run="b"),
        charge(1, study="6" * 64),
        charge(1, purpose="evaluation"),
        charge(1, Mechanism(0.1, 2.0, 9)),
        charge(1, Mechanism(0.2, 2.0, 10)),
        charge(1, Mechanism(0.1, 2.5, 10)),
        Charge(STUDY, "run", 1, "training", "lesion", MECHANISM, DELTA),
        Charge(STUDY, "run", 1, "training", "patient", MECHANISM, 1e-6),
        charge(1, purpose="counts"),
        charge(1, request="7" * 64),
    ],
)
def test_only_the_very_same_charge_is_taken_again(path: Path, other: Charge) -> None:
    Ledger.open(path, DATA).reserve(charge(1), FREE)
    Ledger.open(path, DATA).reserve(other, FREE)
    assert statuses(path) == [(1, "reserved"), (2, "reserved")]


def test_a_lowered_budget_declines_what_was_reserved_as_well(path: Path) -> None:
    Ledger.open(path, DATA).reserve(charge(1), Budget(1.0, DELTA))
    with Ledger.open(path, DATA) as ledger, too_little(r"0 is spent and 0\.4 is left"):
        ledger.reserve(charge(1), Budget(0.4, DELTA))


def test_a_reservation_is_released_once_and_only_by_who_holds_it(path: Path) -> None:
    with Ledger.open(path, DATA) as ledger:
        reservation = ledger.reserve(charge(1), FREE)
        twin = ledger.reserve(charge(1), FREE)
        assert twin == reservation
        with pytest.raises(LedgerError, match="never marked as spent"):
            ledger.mark(reservation, "released")
        ledger.mark(reservation, "spent")
        ledger.mark(twin, "spent")
        ledger.mark(reservation, "released")
        for status in ("spent", "released"):
            with pytest.raises(LedgerError, match="not held by this worker"):
                ledger.mark(twin, status)
        closed = ledger.reserve(charge(2), FREE)
    with pytest.raises(LedgerError, match="not held by this worker"):
        ledger.mark(closed, "spent")
    with pytest.raises(LedgerError, match="not held by this worker"):
        Ledger.open(path, DATA).mark(Reservation(2, charge(2)), "spent")
    assert statuses(path) == [(1, "reserved"), (1, "spent"), (1, "released"), (2, "reserved")]


def test_a_kept_result_is_settled_once(path: Path) -> None:
    with Ledger.open(path, DATA) as ledger:
        ledger.mark(ledger.reserve(charge(1), FREE), "spent")
    for _ in range(2):
        Ledger.open(path, DATA).settle(charge(1))
        assert statuses(path) == [(1, "reserved"), (1, "spent"), (1, "released")]
    Ledger.open(path, DATA).reserve(charge(1), FREE)
    Ledger.open(path, DATA).settle(charge(1))
    Ledger.open(path, DATA).settle(charge(7))
    assert statuses(path)[3:] == [(2, "reserved")], "what is only reserved has no result that could be kept"


def test_one_worker_spends_at_a_time(path: Path) -> None:
    """From `reserve` to the last `released`, or until it is closed or collected."""
    first, second = (Ledger.open(path, DATA, wait=0.1) for _ in range(2))
    one = first.reserve(charge(1), FREE)
    two = first.reserve(charge(1, purpose="evaluation"), FREE)
    for reservation in (one, two):
        with pytest.raises(LedgerError, match="has been spending"):
            second.reserve(charge(1), FREE)
        first.mark(reservation, "spent")
        first.mark(reservation, "released")
    waiting = second.reserve(charge(2), FREE)
    with pytest.raises(LedgerError, match="has been spending"):
        first.reserve(charge(3), FREE)
    second.close()
    first.reserve(charge(3), FREE)
    del first
    second.reserve(charge(4), FREE)
    assert waiting.number == 3
    assert [n for n, status in statuses(path) if status == "reserved"] == [1, 2, 3, 4, 5]


def test_who_waits_sees_what_the_other_has_spent(path: Path) -> None:
    budget = Budget(0.5, DELTA)
    first, second = (Ledger.open(path, DATA, wait=30) for _ in range(2))
    reservation = first.reserve(charge(1), budget)
    outcome: list[Exception] = []

    def other() -> None:
        try:
            second.reserve(charge(2), budget)
        except DeclinedError as error:
            outcome.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    time.sleep(0.1)
    first.mark(reservation, "spent")
    first.mark(reservation, "released")
    thread.join()
    assert len(outcome) == 1


def test_a_declined_or_failed_reserve_does_not_keep_others_out(path: Path) -> None:
    first, second = (Ledger.open(path, DATA, wait=0.0) for _ in range(2))
    with pytest.raises(DeclinedError):
        first.reserve(charge(1), Budget(0.1, DELTA))
    with pytest.raises(DeclinedError):
        first.reserve(charge(1, run="a\nb"), FREE)
    spend(second, charge(1))
    assert statuses(path)[0] == (1, "reserved")


def test_threads_of_one_worker_cannot_overspend(path: Path) -> None:
    ledger, done = Ledger.open(path, DATA), []

    def work(number: int) -> None:
        try:
            ledger.reserve(charge(number), Budget(2.0, DELTA))
            done.append(number)
        except DeclinedError:
            pass

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4
    assert Ledger.open(path, DATA).epsilon(DELTA) == 2.0


def test_a_ledger_of_other_data_says_both_and_what_to_do(path: Path) -> None:
    written(path)
    other = "e" * 64
    with pytest.raises(LedgerError) as caught:
        Ledger.open(path, other)
    message = str(caught.value)
    assert f"of data {DATA[:12]}, but the clinic's data are {other[:12]}" in message
    assert "melfed-client ledger continue --by NAME" in message


def test_data_that_change_owner_between_open_and_reserve_are_noticed(path: Path) -> None:
    stranger = Ledger.open(path, "e" * 64)
    written(path)
    with pytest.raises(LedgerError, match="is the ledger of data"):
        stranger.reserve(charge(9), FREE)
    spend(Ledger.open(path, DATA, wait=0), charge(3))


def test_a_clock_of_long_ago_stops_spending(path: Path) -> None:
    written(path)
    for hours, fine in ((23, True), (25, False)):
        before = datetime.now(UTC) - timedelta(hours=hours)
        if fine:
            with Ledger.open(path, DATA, clock=lambda: before) as ledger:  # noqa: B023
                spend(ledger, charge(3))
        else:
            with pytest.raises(LedgerError, match="the clock has gone backwards"):
                Ledger.open(path, DATA, clock=lambda: before)  # noqa: B023
    times = [row.time for row in verify(path).rows]
    assert times == sorted(times)


def test_a_damaged_ledger_stops_spending_and_stays_as_it_is(path: Path) -> None:
    written(path)
    ledger = Ledger.open(path, DATA)
    path.write_bytes(path.read_bytes().replace(b'"steps":10', b'"steps":11', 1))
    before = path.read_bytes()
    for attempt in (lambda: Ledger.open(path, DATA), lambda: ledger.reserve(charge(3), FREE), lambda: verify(path)):
        with pytest.raises(LedgerError, match="line 1: its content is not what its hash was taken of"):
            attempt()
    assert path.read_bytes() == before


@settings(deadline=None, max_examples=60)
@given(st.sets(st.integers(0, 8), min_size=1))
def test_any_dropped_rows_are_found(three_rounds: Path, dropped: set[int]) -> None:
    lines = three_rounds.read_bytes().splitlines(keepends=True)
    try:
        three_rounds.write_bytes(b"".join(line for number, line in enumerate(lines) if number not in dropped))
        for read in (verify, lambda file: Ledger.open(file, DATA)):
            with pytest.raises(LedgerError, match=f"line {min(dropped) + 1}: "):
                read(three_rounds)
    finally:
        three_rounds.write_bytes(b"".join(lines))
    verify(three_rounds)


def test_verify_knows_heads_that_were_kept_elsewhere(path: Path) -> None:
    written(path, 1)
    kept = verify(path).head
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(2))
    checked = verify(path, kept)
    assert (len(checked.rows), checked.mendable) == (6, None)
    assert checked.head == ledger.head != kept
    path.unlink()
    head_of(path).unlink()
    written(path, 3)
    verify(path)
    with pytest.raises(LedgerError, match="no row has the hash"):
        verify(path, kept)
    with pytest.raises(LedgerError, match="there is no ledger"):
        verify(path.with_name("other.jsonl"))


def test_what_a_crash_left_is_told_and_mended(path: Path) -> None:
    written(path, 1)
    with path.open("ab") as file:
        file.write(b'{"sequence":4')
    before = path.read_bytes()
    assert verify(path).mendable == "a crash has left 13 bytes of a row that was not finished"
    assert path.read_bytes() == before
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(2))
    old = head_of(path).read_bytes()
    with Ledger.open(path, DATA) as ledger:
        ledger.reserve(charge(3), FREE)
    head_of(path).write_bytes(old)
    assert verify(path).mendable == "a crash has left its last row out of its .head"
    assert Ledger.open(path, DATA).epsilon(DELTA) == 1.5
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(3))
    assert verify(path).mendable is None
    assert Ledger.open(path, DATA).epsilon(DELTA) == 1.5


def test_a_full_disk_is_an_error_that_gives_the_reservation_up(path: Path) -> None:
    class Full(Disk):
        full = False

        def append(self, path: Path, data: bytes) -> None:
            super().append(path, data[:100] if self.full else data)
            if self.full:
                raise OSError(28, "No space left on device")

    disk = Full()
    ledger = Ledger.open(path, DATA, disk=disk)
    reservation = ledger.reserve(charge(1), FREE)
    disk.full = True
    with pytest.raises(StorageError, match="No space left on device; free space"):
        ledger.mark(reservation, "spent")
    disk.full = False
    with pytest.raises(LedgerError, match="not held"):
        ledger.mark(reservation, "released")
    spend(ledger, charge(1))
    assert statuses(path) == [(1, "reserved"), (1, "spent"), (1, "released")]


def test_a_ledger_that_is_open_reads_on(path: Path) -> None:
    reader = Ledger.open(path, DATA)
    for number in (1, 2):
        with Ledger.open(path, DATA) as other:
            spend(other, charge(number))
        reader.refresh()
        assert reader.head == other.head
        assert reader.rows == other.rows
        assert reader.epsilon(DELTA) == 0.5 * number
    with reader:
        spend(reader, charge(3))
    assert verify(path).rows == reader.rows


def test_a_ledger_that_is_open_notices_a_backup_and_damage(path: Path) -> None:
    written(path, 1)
    old = path.read_bytes(), head_of(path).read_bytes()
    reader = Ledger.open(path, DATA)
    with Ledger.open(path, DATA) as other:
        spend(other, charge(2))
    reader.refresh()
    path.write_bytes(old[0])
    with pytest.raises(LedgerError, match="are cut off"):
        reader.refresh()
    head_of(path).write_bytes(old[1])
    reader.refresh()
    assert len(reader.rows) == 3
    path.write_bytes(old[0].replace(b'"round":1', b'"round":9', 1))
    with pytest.raises(LedgerError, match="line 1: its content"):
        reader.refresh()


# Other data.

OTHER = "e" * 64


def test_a_ledger_goes_on_with_other_data_and_gives_nothing_back(path: Path) -> None:
    written(path, 2)
    before = verify(path).head
    assert continue_with(path, OTHER, "Dr. Ä")
    with pytest.raises(LedgerError, match=f"is the ledger of data {OTHER[:12]}"):
        Ledger.open(path, DATA)
    ledger = Ledger.open(path, OTHER)
    assert ledger.epsilon(DELTA) == 1.0
    with ledger, too_little(r"1 is spent and 0\.4 is left"):
        ledger.reserve(charge(3), Budget(1.4, DELTA))
    with ledger:
        spend(ledger, charge(3), Budget(1.5, DELTA))
    whole = verify(path, before)
    assert [(change.by, change.data) for change in whole.changes] == [("Dr. Ä", OTHER)]
    assert ([row.data for row in whole.rows[::3]], whole.data) == ([DATA, DATA, OTHER], OTHER)
    assert verify(path, whole.changes[0].hash).head == whole.head
    assert json.loads(path.read_text().splitlines()[6])["status"] == "continued"


def test_there_is_nothing_to_go_on_with(path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger yet"):
        continue_with(path, OTHER, "me")
    written(path, 1)
    before = path.read_bytes()
    assert not continue_with(path, DATA, "me")
    assert path.read_bytes() == before


def test_a_ledger_goes_on_only_between_rounds(path: Path) -> None:
    with Ledger.open(path, DATA) as ledger:
        reservation = ledger.reserve(charge(1), FREE)
        with pytest.raises(LedgerError, match="has been spending"):
            continue_with(path, OTHER, "me", wait=0.0)
        ledger.mark(reservation, "spent")
    assert continue_with(path, OTHER, "me", wait=0.0)
    with pytest.raises(LedgerError):
        ledger.mark(reservation, "released")


def test_what_was_reserved_for_other_data_is_not_taken_up_again(path: Path) -> None:
    """Not even when the data come back: its result may have been sent again meanwhile."""
    Ledger.open(path, DATA).reserve(charge(1), FREE)
    continue_with(path, OTHER, "me")
    continue_with(path, DATA, "me")
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(1))
        assert ledger.epsilon(DELTA) == 1.0
    assert [(row.charge, row.status) for row in verify(path).rows][-1] == (2, "released")
