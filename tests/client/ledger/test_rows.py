"""What rows say, and which may follow which."""

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.ledger.budget import Budget
from melfed.client.ledger.disk import Disk
from melfed.client.ledger.journal import LONGEST_ROW, Journal
from melfed.client.ledger.ledger import Charge, Ledger, verify
from melfed.client.ledger.rows import ChargeTerms, charges
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.errors import DeclinedError, LedgerError
from melfed.common.hash_chain import Content
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

real_epsilon = accounting.epsilon


PATH = Path("ledger.jsonl")


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / "north.jsonl"


@pytest.mark.parametrize(
    "wrong",
    [
        charge(1, run="x" * 201),
        charge(1, run="line\nfeed"),
        charge(1, run="\x9b31mred"),
        charge(1, run="\ud800"),
        charge(1, study="short"),
        charge(-1),
        charge(1, purpose="sport"),  # type: ignore[arg-type]
        Charge(STUDY, "run", 1, "training", "family", MECHANISM, DELTA),
        Charge(STUDY, "run", 1, "training", "patient", MECHANISM, 1.0),
        Charge(STUDY, "run", 1, "training", "patient", MECHANISM, math.nan),
        charge(1, Mechanism(0.1, 2.0, 0)),
        charge(1, Mechanism(0.1, 2.0, True)),
    ],
)
def test_what_cannot_be_written_down_is_declined(path: Path, wrong: Charge) -> None:
    with (
        Ledger.open(path, DATA) as ledger,
        pytest.raises(DeclinedError, match="does not fit a privacy ledger") as caught,
    ):
        ledger.reserve(wrong, FREE)
    assert "\n" not in str(caught.value)
    assert verify(path).rows == ()


FLOATS = st.floats(0, 1, exclude_min=True, exclude_max=True)


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200),
    FLOATS,
    st.floats(0, 1e6),
    st.integers(1, 2**53),
    FLOATS,
    st.integers(0, 2**53),
)
def test_every_allowed_charge_is_read_back_as_it_was(
    run: str, rate: float, sigma: float, steps: int, delta: float, number: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "epsilon", cheap_epsilon)
        disk = FakeDisk()
        wish = Charge(STUDY, run, number, "evaluation", "image", Mechanism(rate, sigma, steps), delta)
        reservation = Ledger.open(PATH, DATA, disk=disk).reserve(wish, Budget(None, delta))
        assert max(map(len, disk.names[PATH].content.splitlines())) < LONGEST_ROW
        again = Ledger.open(PATH, DATA, disk=disk)
        assert again.reserve(wish, Budget(None, delta)) == reservation
        (row,) = again.rows
        assert (row.run, row.round, row.delta) == (run, number, delta)
        assert Mechanism(row.sampling_rate, row.noise_multiplier, row.steps) == wish.mechanism


def forge(path: Path, *changes: Content) -> None:
    """Write rows with right hashes, each that of a first reservation with changes."""
    journal = Journal(path, Disk(), lambda: datetime.now(UTC))
    terms = ChargeTerms(
        data=DATA,
        study=STUDY,
        run="run",
        round=1,
        purpose="training",
        unit="patient",
        sampling_rate=0.1,
        noise_multiplier=2.0,
        steps=10,
        delta=DELTA,
    ).model_dump()
    Disk().make_folder(path.parent)
    journal.hold(0, lambda _: None)
    for change in changes:
        content = {"charge": 1, **terms, "status": "reserved", "epsilon": 0.5, **change}
        journal.write(journal.compose({key: value for key, value in content.items() if value != "absent"}))
    journal.let_go()


SPENT, RELEASED = {"status": "spent"}, {"status": "released"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([SPENT], "line 1: charge 1 is spent without having been reserved"),
        ([{}, RELEASED], "line 2: charge 1 is released without having been spent"),
        ([{}, SPENT, SPENT], "line 3: charge 1 is spent without"),
        ([{}, SPENT, RELEASED, RELEASED], "line 4: charge 1 is released without"),
        ([{}, {**SPENT, "steps": 9}], "line 2: charge 1 is not what was reserved"),
        ([{}, {**SPENT, "noise_multiplier": 1.0}], "line 2: charge 1 is not what was reserved"),
        ([{}, {**SPENT, "charge": 2}], "line 2: charge 2 is spent without"),
        ([{}, {"charge": 2}], "line 2: reserves what charge 1 has reserved"),
        ([{}, {"round": 2}], "line 2: charge 1 is out of turn"),
        ([{}, {"round": 2, "charge": 2, "data": "e" * 64}], "line 2: is of data eeeeeeeeeeee, but"),
        ([{"noise_multiplier": 0.0}], "line 1: states an epsilon"),
        ([{"noise_multiplier": 0.0, "epsilon": None}, {"round": 2, "charge": 2}], "line 2: states an epsilon"),
        ([{"steps": "10"}], "line 1: steps: "),
        ([{"steps": 10.0}], "line 1: steps: "),
        ([{"round": True}], "line 1: round: "),
        ([{"sampling_rate": 1.5}], "line 1: sampling_rate: "),
        ([{"unit": "family"}], "line 1: unit: "),
        ([{"data": "D" * 64}], "line 1: data: "),
        ([{"study": "absent"}], "line 1: study: "),
        ([{"extra": 1}], "line 1: extra: "),
        ([{"epsilon": -1}], "line 1: epsilon: "),
        ([{"values": [1]}], "line 1: has values, though it is reserved for training"),
        ([{}, SPENT, {**RELEASED, "values": [1]}], "line 3: has values, though it is released for training"),
        ([{"purpose": "counts", "values": [1]}], "line 1: has values, though it is reserved for counts"),
        ([{"request": "7" * 63}], "line 1: request: "),
        ([{"request": "7" * 64}, {**SPENT, "request": "8" * 64}], "line 2: charge 1 is not what was reserved"),
        ([{"values": []}], "line 1: values: "),
        ([{"values": [1.0]}], "line 1: values.0: "),
    ],
)
def test_rows_that_contradict_each_other_are_damage(path: Path, changes: list[Content], words: str) -> None:
    forge(path, *changes)
    for read in (verify, lambda file: Ledger.open(file, DATA)):
        with pytest.raises(LedgerError) as caught:
            read(path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_line_a_charge_composes_to_its_own_epsilon(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real accountant: each line's epsilon is that of it and all before, though rows of charges are mixed."""
    monkeypatch.setattr(accounting, "epsilon", real_epsilon)
    budget = Budget(5.0, DELTA)
    with Ledger.open(path, DATA) as ledger:
        spend(ledger, charge(1, Mechanism(0.1, 3.0, 5)), budget)
        one = ledger.reserve(charge(2, Mechanism(0.1, 3.0, 5)), budget)
        two = ledger.reserve(charge(2, Mechanism(1.0, 20.0, 1), purpose="evaluation"), budget)
        ledger.mark(two, "spent")
        ledger.mark(one, "spent")
        ledger.mark(one, "released")
        with too_little("of its steps would still fit"):
            ledger.reserve(charge(3, Mechanism(1.0, 0.5, 2)), budget)
    lines = charges(verify(path).rows)
    assert [line["status"] for line in lines] == ["released", "released", "spent"]
    history = [Mechanism(line["sampling_rate"], line["noise_multiplier"], line["steps"]) for line in lines]
    for number, line in enumerate(lines, 1):
        assert line["epsilon"] == pytest.approx(real_epsilon(history[:number], line["delta"]), rel=1e-12)
    assert 0 < lines[0]["epsilon"] < lines[1]["epsilon"] < lines[2]["epsilon"] < 5


@pytest.mark.parametrize("first", [True, False])
def test_a_change_that_changes_nothing_is_damage(path: Path, first: bool) -> None:
    if not first:
        written(path, 1)
    path.parent.mkdir(exist_ok=True)
    journal = Journal(path, Disk(), lambda: datetime.now(UTC))
    journal.hold(0, lambda _: None)
    journal.write(journal.compose({"status": "continued", "data": DATA, "by": "me"}))
    journal.let_go()
    with pytest.raises(LedgerError, match=f"line {1 if first else 4}: goes on with other data, but there is nothing"):
        verify(path)


FIRST, SECOND = "1" * 64, "2" * 64


def release(ledger: Ledger, wish: Charge, values: tuple[int, ...] | None = None) -> None:
    reservation = ledger.reserve(wish, FREE)
    ledger.mark(reservation, "spent")
    ledger.mark(reservation, "released", values=values)


def test_rows_without_request_and_values_are_those_of_older_versions(path: Path) -> None:
    text = written(path).read_text()
    assert '"request"' not in text
    assert '"values"' not in text
    assert all("request" not in line and "values" not in line for line in charges(verify(path).rows))


def test_the_longest_row_is_read_again(path: Path) -> None:
    wish = charge(2**53, purpose="counts", run="😀" * 200, request=FIRST)
    with Ledger.open(path, DATA) as ledger:
        release(ledger, wish, (-(2**53),) * 16)
    assert Ledger.open(path, DATA).values(wish) == (-(2**53),) * 16
