"""A ledger that was restored from a backup, or removed: refused, and gone on with by what the audit log knows."""

from pathlib import Path

import pytest

from melfed.client.approval.run_budget import limits
from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.kit import ledger as ledger_check
from melfed.client.ledger.ledger import Ledger, verify
from melfed.client.ledger.witness import check_against, remembered
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog, verify_log
from melfed.common.errors import LedgerError, StorageError
from tests.client.guards import STUDY, Work, request
from tests.client.ledger.restored import backup, clinic_of_24, restore, rounds, started, told


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return clinic_of_24(tmp_path)


def test_each_charge_is_in_the_audit_log_with_all_that_it_is(config: ClinicConfig) -> None:
    rounds(config, 1, 2)
    rows = {row.charge: row for row in verify(config.ledger).rows if row.status == "reserved"}
    events = told(config, Event.LEDGER_CHARGED)
    assert [event["charge"] for event in events] == [1, 2]
    for event in events:
        row = rows[event["charge"]]
        assert event["head"] == row.hash
        for name in ("run", "round", "purpose", "unit", "sampling_rate", "noise_multiplier", "steps", "delta", "data"):
            assert event[name] == getattr(row, name), name
        assert (event["digest"], event["epsilon"]) == (row.study, row.epsilon)
    assert [event["charge"] for event in told(config, Event.LEDGER_RELEASED)] == [1, 2]
    assert told(config, Event.LEDGER_RELEASED)[-1]["head"] == verify(config.ledger).head
    assert verify_log(config.audit_log).error is None


def test_a_charge_is_in_the_audit_log_before_anything_is_computed(config: ClinicConfig) -> None:
    guard, seen = started(config), []

    def compute() -> dict:
        seen.append((len(told(config, Event.LEDGER_CHARGED)), len(told(config, Event.LEDGER_RELEASED))))
        return Work()()

    guard.pay("training", request(), compute)
    assert seen == [(1, 0)]


def test_what_the_audit_log_cannot_take_is_not_computed_and_is_caught_up_with(
    config: ClinicConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, work = started(config), Work()

    def full(*_: object, **__: object) -> None:
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "record", full)
        with pytest.raises(StorageError):
            guard.pay("training", request(), work)
    assert (work.done, told(config, Event.LEDGER_CHARGED)) == (0, [])
    guard.pay("training", request(), work)
    assert work.done == 1
    assert [event["charge"] for event in told(config, Event.LEDGER_CHARGED)] == [1]


def test_a_ledger_that_is_ahead_of_the_log_is_fine_and_caught_up_with(config: ClinicConfig) -> None:
    rounds(config, 1)
    # As a worker that is killed between the two leaves it.
    with Ledger.open(config.ledger, str(verify(config.ledger).data)) as book:
        row = verify(config.ledger).rows[0]
        from melfed.client.ledger.ledger import Charge
        from melfed.client.privacy.accounting import Mechanism

        mechanism = Mechanism(row.sampling_rate, row.noise_multiplier, row.steps)
        book.reserve(Charge(row.study, row.run, 2, "training", row.unit, mechanism, row.delta), limits(None, STUDY))
    assert ledger_check(config).status == "ok"
    for _ in range(2):
        started(config)
        assert [event["charge"] for event in told(config, Event.LEDGER_CHARGED)] == [1, 2]


def test_a_backup_that_is_put_back_while_the_worker_runs_is_noticed(config: ClinicConfig) -> None:
    guard, work = started(config), Work()
    guard.pay("training", request(round_number=1), work)
    old = backup(config, "monday")
    guard.pay("training", request(round_number=2), work)
    restore(config, old)
    with pytest.raises(LedgerError, match="is older than this clinic's audit log"):
        guard.pay("training", request(round_number=3), work)
    assert work.done == 2


def test_without_a_log_or_a_ledger_there_is_nothing_to_hold_against(config: ClinicConfig) -> None:
    check_against(config.ledger, remembered(config.audit_log))
    rounds(config, 1)
    config.audit_log.unlink()
    check_against(config.ledger, remembered(config.audit_log))
