"""Nothing is computed before it is reserved, and nothing leaves that policy, budget or ledger forbid."""

import dataclasses
import math
import stat
from pathlib import Path

import numpy as np
import pytest

from melfed.client.approval.run_budget import epsilon_of_runs
from melfed.client.data.clinic_data import fingerprint
from melfed.client.ledger.key import ledger_key
from melfed.client.ledger.ledger import continue_with, verify
from melfed.client.ledger.rows import Book
from melfed.client.privacy import accounting
from melfed.client.privacy.accounting import Mechanism
from melfed.client.privacy.plan import plan_of
from melfed.client.worker.guard import Guard, Protection, Request
from melfed.client.worker.reply_store import ReplyStore
from melfed.common.errors import CancelledError, DeclinedError, LedgerError, StorageError, StudyError
from tests.client.guards import DATA, ONE_CHARGE, PRIVATE, STUDY, Work, guard_of, policy, request, result, statuses
from tests.client.ledger.ledgers import too_little
from tests.client.small import small_study

# One request.


def test_what_is_asked_for_is_reserved_before_and_released_after_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    save = ReplyStore.save

    def watched(self: ReplyStore, *arguments: object) -> None:
        seen.append(statuses(tmp_path))
        save(self, *arguments)

    monkeypatch.setattr(ReplyStore, "save", watched)

    def work() -> dict[str, np.ndarray]:
        seen.append(statuses(tmp_path))
        return {"result": np.ones(1, np.float32)}

    guard_of(tmp_path).pay("training", request(), work)
    assert [*seen, statuses(tmp_path)] == [ONE_CHARGE[:1], ONE_CHARGE[:2], ONE_CHARGE]


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
def test_a_charge_says_what_was_done_to_whom(tmp_path: Path, purpose: str) -> None:
    guard = guard_of(tmp_path)
    guard.pay(purpose, request(round_number=2, run="a run"), Work())
    mechanism = guard.plan.training if purpose == "training" else guard.plan.evaluation
    assert mechanism is not None
    for row in verify(tmp_path / "north.jsonl").rows:
        assert (row.study, row.run, row.round, row.purpose) == (STUDY.digest, "a run", 2, purpose)
        assert Mechanism(row.sampling_rate, row.noise_multiplier, row.steps) == mechanism
        assert (row.unit, row.delta, row.data) == ("patient", 1e-5, guard.fingerprint)
        assert row.epsilon == pytest.approx(accounting.epsilon([mechanism], 1e-5))


def test_the_same_request_has_the_same_answer_at_no_cost(tmp_path: Path) -> None:
    work = Work()
    first = guard_of(tmp_path).pay("training", request(), work)
    account = guard_of(tmp_path).account()
    again = guard_of(tmp_path).pay("training", request(), work)
    assert (work.done, result(first), result(again)) == (1, 1, 1)
    assert statuses(tmp_path) == ONE_CHARGE
    assert guard_of(tmp_path).account() == account


@pytest.mark.parametrize(
    "other",
    [request(2.0), request(round_number=2), request(run="another")],
    ids=["another model", "another round", "another run"],
)
def test_another_request_costs_again(tmp_path: Path, other: Request) -> None:
    work = Work()
    guard_of(tmp_path).pay("training", request(), work)
    before, _ = guard_of(tmp_path).account()
    assert result(guard_of(tmp_path).pay("training", other, work)) == 2
    assert len(statuses(tmp_path)) == 6
    assert guard_of(tmp_path).account()[0] > before


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (CancelledError("called off"), 1),
        (DeclinedError("not approved any more"), 1),
        (StorageError("the disk is full"), 1),
        (StudyError("a number is not finite"), 2),
        (RuntimeError("out of memory"), 2),
    ],
)
def test_an_error_that_patients_may_have_a_part_in_is_paid_for(tmp_path: Path, error: Exception, again: int) -> None:
    """Else whoever asks could have it computed again and again, with fresh noise, and learn each time if it fails."""
    guard = guard_of(tmp_path)

    def fail() -> dict[str, np.ndarray]:
        raise error

    with pytest.raises(type(error)):
        guard.pay("training", request(), fail)
    assert statuses(tmp_path) == (ONE_CHARGE if again == 2 else ONE_CHARGE[:1])
    once = guard.account()[0]
    guard.pay("training", request(), Work())
    assert [status for _, status in statuses(tmp_path)] == [status for _, status in ONE_CHARGE] * again
    assert (guard.account()[0] > once) == (again == 2)


def test_work_that_was_called_off_is_asked_again_with_the_same_model_or_paid_for_again(tmp_path: Path) -> None:
    """The time until it was called off may tell about patients: one charge is for one question."""
    guard = guard_of(tmp_path)

    def called_off() -> dict[str, np.ndarray]:
        raise CancelledError("called off")

    for number, asked in enumerate((request(), request(), request(2.0), request(3.0)), start=1):
        with pytest.raises(CancelledError):
            guard.pay("training", asked, called_off)
        assert len(statuses(tmp_path)) == max(number - 1, 1)
    mechanism = guard.plan.training
    three = accounting.epsilon([dataclasses.replace(mechanism, steps=3 * mechanism.steps)], 1e-5)
    assert guard.account()[0] == pytest.approx(three)


def test_a_runs_counts_are_made_once_whatever_happens_to_other_files(tmp_path: Path) -> None:
    made: list[int] = []

    def compute() -> tuple[int, ...]:
        made.append(1)
        return (3, -1, 7, 0, 2, 2)

    assert guard_of(tmp_path).counts("run", compute) == guard_of(tmp_path).counts("run", compute) == compute()
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    assert guard_of(tmp_path).counts("run", compute) == (3, -1, 7, 0, 2, 2)
    assert len(made) == 2
    guard_of(tmp_path).counts("another", compute)
    rows = [row for row in verify(tmp_path / "north.jsonl").rows if row.status == "released"]
    assert [(row.purpose, row.run, row.values) for row in rows] == [
        ("counts", run, (3, -1, 7, 0, 2, 2)) for run in ("run", "another")
    ]


def test_another_study_costs_again_in_the_same_ledger(tmp_path: Path) -> None:
    other, work = small_study(name="other", privacy=PRIVATE), Work()
    guard_of(tmp_path).pay("training", request(), work)
    assert result(guard_of(tmp_path, other).pay("training", request(), work)) == 2
    rows = verify(tmp_path / "north.jsonl").rows
    assert [row.study for row in rows[::3]] == [STUDY.digest, other.digest]
    total = accounting.epsilon([Mechanism(1.0, 2.0, 2)], 1e-5)
    assert guard_of(tmp_path).account() == (pytest.approx(total), rows[-1].hash)


def test_an_evaluation_does_not_drive_out_the_reply_of_a_training(tmp_path: Path) -> None:
    work = Work()
    for purpose in ("training", "evaluation", "training", "evaluation"):
        guard_of(tmp_path).pay(purpose, request(), work)
    assert work.done == 2


def test_an_evaluation_on_public_images_is_nothing_to_pay_for(tmp_path: Path) -> None:
    public = small_study(privacy={**PRIVATE, "evaluation": "public"})
    with pytest.raises(DeclinedError, match="study small has no evaluation to pay for"):
        guard_of(tmp_path, public).pay("evaluation", request(), Work())
    assert not (tmp_path / "north.jsonl").exists()


def test_an_empty_ledger_has_spent_nothing(tmp_path: Path) -> None:
    assert guard_of(tmp_path).account() == (0.0, "0" * 64)


def test_without_noise_everything_is_spent(tmp_path: Path) -> None:
    guard = guard_of(tmp_path, small_study(privacy={**PRIVATE, "noise_multiplier": 0.0}))
    guard.pay("training", request(), Work())
    assert guard.account()[0] == math.inf


# The budget.


def test_a_study_has_no_more_than_its_epsilon(tmp_path: Path) -> None:
    study, work = small_study(privacy={"unit": "patient", "epsilon": 1.0, "recipe": "manual"}), Work()
    guard = guard_of(tmp_path, study)
    guard.counts("run", lambda: (1, 1))
    for round_number in (1, 2):
        guard.pay("training", request(round_number=round_number), work)
    for round_number in (1, 2):
        guard.pay("evaluation", request(round_number=round_number), work)
    spent, _ = guard.account()
    assert 0.99 < spent == guard.plan.epsilon <= 1.0
    before = (tmp_path / "north.jsonl").read_bytes()
    with too_little(r"of ε = 1 at δ = 1e-05, 0\.99\d* is spent and 0\.00") as raised:
        guard.pay("training", request(round_number=3), work)
    assert "for training in round 3 (q = 1, σ = " in str(raised.value)
    assert "\n" not in str(raised.value)
    assert work.done == 4
    assert (tmp_path / "north.jsonl").read_bytes() == before
    # What was paid for can still be had.
    assert result(guard.pay("training", request(round_number=2), work)) == 2


def test_the_clinics_budget_is_for_all_studies_and_runs_together(tmp_path: Path) -> None:
    limits, work = policy(epsilon=epsilon_of_runs(plan_of(STUDY), 2), runs=5), Work()
    guard_of(tmp_path, policy=limits).pay("training", request(run="one"), work)
    other = small_study(name="other", privacy=PRIVATE)
    guard_of(tmp_path, other, limits).pay("training", request(run="two"), work)
    # What has begun can be ended.
    for study, run in ((STUDY, "one"), (other, "two")):
        guard = guard_of(tmp_path, study, limits)
        guard.check_run(run)
        guard.pay("training", request(round_number=2, run=run), work)
        for number in (1, 2):
            guard.pay("evaluation", request(round_number=number, run=run), work)
    for study in (STUDY, other):
        with too_little(f"of ε = {limits.epsilon:.6g}"):
            guard_of(tmp_path, study, limits).pay("training", request(run="three"), work)
    assert work.done == 8


# The policy.


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"studies": ()}, "not approved here"),
        ({"clipping_norm": 0.5}, "clipping norm C is 1"),
        ({"noise_multiplier": 2.5}, "noise multiplier σ is 2"),
        ({"smallest_clipping_norm": 2.0}, "clipping norm C is 1"),
        ({"delta": 1e-6}, "asks for δ 1e-05"),
        ({"tensors": ("head.*",)}, "'trunk.weight'"),
    ],
)
def test_what_the_policy_forbids_is_declined_before_anything_is_written(
    tmp_path: Path, limits: dict[str, object], reason: str
) -> None:
    with pytest.raises(DeclinedError, match=reason.replace(".", r"\.")):
        guard_of(tmp_path, policy=policy(**limits)).check(["head.bias", "trunk.weight"])
    assert not (tmp_path / "north.jsonl").exists()


def test_the_smaller_of_both_noises_is_held_against_the_policy(tmp_path: Path) -> None:
    study = small_study(privacy={**PRIVATE, "noise_multiplier": 11.0}, federation={"rounds": 60, "validate_every": 60})
    evaluation = guard_of(tmp_path, study).plan.evaluation
    assert evaluation is not None
    assert evaluation.noise_multiplier < 10
    guard_of(tmp_path, study, policy(noise_multiplier=evaluation.noise_multiplier)).check([])
    with pytest.raises(DeclinedError, match=f"noise multiplier σ is {evaluation.noise_multiplier}, this clinic allows"):
        guard_of(tmp_path, study, policy(noise_multiplier=10.0)).check([])


def test_what_the_policy_allows_passes(tmp_path: Path) -> None:
    guard_of(tmp_path, policy=policy(tensors=("head.*", "trunk.*"))).check(["head.bias", "trunk.weight"])
    guard_of(tmp_path).check(["anything"])


def test_a_study_without_privacy_needs_the_clinics_leave_and_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(DeclinedError, match="it has no privacy section, and this clinic trains nothing without one"):
        guard_of(tmp_path, small_study(), policy()).check([])
    guard_of(tmp_path, small_study(), policy(non_private=True)).check([])
    assert not list(tmp_path.iterdir())


# The ledger and its key.


def test_a_ledger_of_other_data_stops_everything(tmp_path: Path) -> None:
    guard_of(tmp_path).pay("training", request(), Work())
    other = Guard(STUDY, Protection(tmp_path / "north.jsonl"), dataclasses.replace(DATA, train=DATA.train[1:]))
    for use in (lambda: other.check([]), other.account, lambda: other.pay("training", request(2.0), Work())):
        with pytest.raises(LedgerError, match="is the ledger of data"):
            use()


def test_a_damaged_ledger_stops_everything_and_stays_as_it_is(tmp_path: Path) -> None:
    guard_of(tmp_path).pay("training", request(), Work())
    path = tmp_path / "north.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps":1', b'"steps":0', 1))
    damaged, guard, work = path.read_bytes(), guard_of(tmp_path), Work()
    # Not even a reply that was paid for is sent: whether it was cannot be known.
    for use in (lambda: guard.check([]), guard.account, lambda: guard.pay("training", request(), work)):
        with pytest.raises(LedgerError):
            use()
    assert work.done == 0
    assert path.read_bytes() == damaged


def test_the_key_is_secret_and_stays(tmp_path: Path) -> None:
    protection = Protection(tmp_path / "new" / "north.jsonl")
    key = protection.key()
    path = tmp_path / "new" / "north.key"
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert protection.key() == key
    assert ledger_key(tmp_path / "south.jsonl") != key


def test_of_two_workers_that_make_a_key_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    protection, path = Protection(tmp_path / "north.jsonl"), tmp_path / "north.key"

    def other_is_quicker(size: int) -> bytes:
        path.write_bytes(b"o" * size)
        return b"m" * size

    monkeypatch.setattr("melfed.client.ledger.key.secrets.token_bytes", other_is_quicker)
    assert protection.key() == b"o" * 32
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"north\.key: cannot be made: ") as raised:
        ledger_key(tmp_path / "file" / "north.jsonl")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "is missing, but there is a ledger"), (b"short", "has 5 bytes")]
)
def test_a_ledger_without_its_key_stops_everything(tmp_path: Path, content: bytes | None, reason: str) -> None:
    guard_of(tmp_path).pay("training", request(), Work())
    path = tmp_path / "north.key"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LedgerError, match=reason):
        guard_of(tmp_path).check([])
    assert len(statuses(tmp_path)) == 3


def test_a_fingerprint_is_of_the_images_their_patients_and_labels_and_of_the_key() -> None:
    def of(key: bytes = b"k", **changes: object) -> str:
        return fingerprint(dataclasses.replace(DATA, **changes), key)

    changed = dataclasses.replace(DATA.train[0], target=1), *DATA.train[1:]
    moved = {"train": DATA.train[1:], "test": (*DATA.test, DATA.train[0])}
    assert of() == of(**moved) == of(train=DATA.train[::-1]) == of(name="south")
    others = [of(train=changed), of(b"another"), of(train=DATA.train[1:])]
    others.append(of(train=(dataclasses.replace(DATA.train[0], patient_id="p7"), *DATA.train[1:])))
    assert len({of(), *others}) == 5


# Runs and studies side by side.


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
def test_a_run_that_pauses_while_others_go_on_is_charged_once(tmp_path: Path, purpose: str) -> None:
    other, work = small_study(name="other", privacy=PRIVATE), Work()
    first = guard_of(tmp_path).pay(purpose, request(), work)
    guard_of(tmp_path, other).pay(purpose, request(), work)
    guard_of(tmp_path).pay(purpose, request(run="another"), work)
    assert result(guard_of(tmp_path).pay(purpose, request(), work)) == result(first)
    assert work.done == 3
    assert len(statuses(tmp_path)) == 9


def test_the_replies_of_a_few_runs_are_kept_and_none_of_another_clinic(tmp_path: Path) -> None:
    guard, work = guard_of(tmp_path), Work()
    neighbour = Guard(STUDY, Protection(tmp_path / "north.training-x.jsonl"), DATA)
    neighbour.pay("training", request(), work)
    guard.pay("evaluation", request(), work)
    for number in range(6):
        guard.pay("training", request(run=f"run {number}"), work)
        guard.pay("training", request(round_number=2, run=f"run {number}"), work)
    kept = list(tmp_path.glob("north.training-????????????????.safetensors"))
    assert len(kept) == 4
    assert len(list(tmp_path.glob("*.safetensors"))) == 6
    assert result(guard.pay("training", request(round_number=2, run="run 2"), work)) == 8
    neighbour.pay("training", request(), work)
    assert work.done == 14


def test_what_was_learnt_from_other_data_is_no_answer(tmp_path: Path) -> None:
    work = Work()
    guard_of(tmp_path).pay("training", request(), work)
    before = guard_of(tmp_path).account()[0]
    fewer = Guard(STUDY, Protection(tmp_path / "north.jsonl"), dataclasses.replace(DATA, train=DATA.train[1:]))
    assert continue_with(tmp_path / "north.jsonl", fewer.fingerprint, "me")
    assert result(fewer.pay("training", request(), work)) == 2
    assert fewer.account()[0] > before


def test_a_guard_verifies_a_ledger_once_and_sees_what_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, other, seen = guard_of(tmp_path), guard_of(tmp_path), []
    for number in (1, 2):
        guard.pay("training", request(round_number=number), Work())
    monkeypatch.setattr(Book, "add", lambda self, row, add=Book.add: (seen.append(row["sequence"]), add(self, row)))
    guard.check([])
    guard.account()
    assert seen == []
    other.pay("training", request(run="other"), Work())
    assert seen == [*range(1, 7), 7, 8, 9]
    assert guard.account() == other.account()
    assert seen[9:] == [7, 8, 9]
