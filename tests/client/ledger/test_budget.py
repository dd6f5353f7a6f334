"""What may be charged: so many runs of a study, its own ε, the clinic's ε, and no run that could not be ended."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.ledger.budget import Allowance, Budget, Planned, remaining
from melfed.client.ledger.ledger import Charge, Ledger, verify
from melfed.client.ledger.rows import LedgerRow
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.common.errors import DeclinedError
from tests.client.ledger.fake_disk import FakeDisk
from tests.client.ledger.ledgers import DATA, DELTA, STUDY, charge, cheap_epsilon, spend, too_little

TRAIN, SCORE, COUNT = Mechanism(0.5, 1.0, 2), Mechanism(1.0, 4.0, 1), Mechanism(1.0, 8.0, 1)  # 1.0, 0.25, 0.125
PLAN = (Planned("training", TRAIN, 3), Planned("evaluation", SCORE, 2), Planned("counts", COUNT, 1))
WHOLE = 3 * 1.0 + 2 * 0.25 + 0.125


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.open(tmp_path / "ledger.jsonl", DATA)


def budget(clinic: float = 100.0, study: float = 100.0, runs: int = 1) -> Budget:
    return Budget(clinic, DELTA, Allowance(runs, study, DELTA), PLAN)


def train(number: int = 1, run: str = "run", study: str = STUDY) -> Charge:
    return charge(number, TRAIN, run, study=study)


def a_whole_run(ledger: Ledger, limits: Budget, run: str = "run") -> None:
    spend(ledger, charge(0, COUNT, run, "counts"), limits)
    for number in (1, 2, 3):
        spend(ledger, train(number, run), limits)
    for number in (2, 3):
        spend(ledger, charge(number, SCORE, run, "evaluation"), limits)


def test_so_many_runs_and_no_further_one(ledger: Ledger) -> None:
    limits = budget(runs=2)
    with ledger:
        for run in ("a", "b"):
            ledger.check_run(STUDY, run, limits)
            spend(ledger, train(1, run), limits)
        before = ledger.path.read_bytes()
        for ask in (lambda: ledger.check_run(STUDY, "c", limits), lambda: ledger.reserve(train(1, "c"), limits)):
            with pytest.raises(DeclinedError, match="every run that this clinic has approved of this study has begun"):
                ask()
        assert ledger.path.read_bytes() == before, "nothing was charged"
        # A run that has begun goes on, and another study's runs are its own.
        ledger.check_run(STUDY, "a", limits)
        spend(ledger, train(2, "a"), limits)
        ledger.reserve(train(1, "c", "6" * 64), limits)


def test_the_runs_before_a_change_of_the_data_count(ledger: Ledger) -> None:
    from melfed.client.ledger.ledger import continue_with

    with ledger:
        spend(ledger, train(), budget())
    continue_with(ledger.path, "e" * 64, "Dr. A")
    with pytest.raises(DeclinedError, match="has begun"):
        Ledger.open(ledger.path, "e" * 64).check_run(STUDY, "other", budget())


@pytest.mark.parametrize(("clinic", "study"), [(WHOLE, 100.0), (100.0, WHOLE), (WHOLE, WHOLE)])
def test_a_run_that_just_fits_goes_through_to_its_end(ledger: Ledger, clinic: float, study: float) -> None:
    with ledger:
        ledger.check_run(STUDY, "run", budget(clinic, study))
        a_whole_run(ledger, budget(clinic, study))
    assert ledger.epsilon(DELTA) == WHOLE


@pytest.mark.parametrize(
    ("limits", "whose"),
    [(budget(clinic=WHOLE - 0.01), "these patients' ε"), (budget(study=WHOLE - 0.01), "the ε that this clinic has")],
)
def test_a_run_that_could_not_be_ended_is_not_begun(ledger: Ledger, limits: Budget, whose: str) -> None:
    with ledger:
        for ask in (
            lambda: ledger.check_run(STUDY, "run", limits),
            lambda: ledger.reserve(train(), limits),
            lambda: ledger.reserve(charge(0, COUNT, purpose="counts"), limits),
        ):
            with too_little(r"0 is spent and 3\.615 is left; this needs 3\.625") as caught:
                ask()
            assert whose in str(caught.value)
    assert not ledger.rows


def test_what_other_studies_have_spent_counts_for_the_clinic_and_not_for_the_study(ledger: Ledger) -> None:
    with ledger:
        spend(ledger, train(1, "x", "6" * 64))
        ledger.check_run(STUDY, "run", budget(clinic=WHOLE + 1.0, study=WHOLE))
        with too_little(r"of ε = 4\.5 .*, 1 is spent and 3\.5 is left"):
            ledger.check_run(STUDY, "run", budget(clinic=4.5, study=WHOLE))


def test_a_run_that_goes_on_is_asked_for_the_rest_alone(ledger: Ledger) -> None:
    limits = budget(clinic=WHOLE, study=WHOLE)
    with ledger:
        spend(ledger, charge(0, COUNT, purpose="counts"), limits)
        spend(ledger, train(1), limits)
        ledger.check_run(STUDY, "run", limits)
        spend(ledger, train(1, "x", "6" * 64))  # a limit of its own
        with too_little("this needs 2.5"):
            ledger.check_run(STUDY, "run", limits)


def test_no_charge_takes_a_study_beyond_its_approval_whatever_it_asks(ledger: Ledger) -> None:
    """A coordinator that asks the same round again and again, each time with another model."""
    limits, given = budget(study=WHOLE + 1.5), 0
    with ledger:
        for number in range(20):
            try:
                spend(ledger, charge(1, TRAIN, request=f"{number:064d}"), limits)
                given += 1
            except DeclinedError:
                break
    assert given == 5
    assert ledger.epsilon(DELTA) <= WHOLE + 1.5


def test_a_reservation_that_is_taken_up_again_is_not_counted_twice(ledger: Ledger) -> None:
    limits = budget(clinic=WHOLE, study=WHOLE)
    with ledger:
        ledger.reserve(train(1), limits)
    again = Ledger.open(ledger.path, DATA)
    with again:
        a_whole_run(again, limits)
    assert again.epsilon(DELTA) == WHOLE


def test_a_round_that_was_charged_twice_is_one_round_of_the_plan() -> None:
    def row(purpose: str, number: int) -> LedgerRow:
        return LedgerRow.model_construct(purpose=purpose, round=number)

    assert remaining(PLAN, []) == [Mechanism(0.5, 1.0, 6), Mechanism(1.0, 4.0, 2), COUNT]
    twice = [row("training", 1), row("training", 1), row("counts", 0), row("evaluation", 2), row("evaluation", 3)]
    assert remaining(PLAN, twice) == [Mechanism(0.5, 1.0, 4)]
    assert remaining(PLAN, [*twice, *(row("training", number) for number in range(9))]) == []


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans()), max_size=30),
    st.integers(1, 3),
    st.integers(1, 12),
)
def test_whatever_is_asked_runs_and_both_limits_hold(
    asked: list[tuple[str, int, bool]], runs: int, epsilon: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "epsilon", cheap_epsilon)
        ledger = Ledger.open(Path("/clinic/ledger.jsonl"), DATA, disk=FakeDisk())
        limits = budget(clinic=epsilon + 1.0, study=float(epsilon), runs=runs)
        for run, number, scored in asked:
            wish = charge(number, SCORE, run, "evaluation") if scored else train(number, run)
            try:
                spend(ledger, wish, limits)
            except DeclinedError:
                continue
        assert ledger.epsilon(DELTA) <= epsilon
        assert len({row.run for row in ledger.rows}) <= runs
        if ledger.rows:
            assert epsilon >= WHOLE, "a run was begun that could not be ended"


def test_without_limits_everything_goes(ledger: Ledger) -> None:
    with ledger:
        for run in "abcd":
            ledger.check_run(STUDY, run, Budget(None, DELTA))
            spend(ledger, train(1, run))
    assert len(verify(ledger.path).rows) == 12
