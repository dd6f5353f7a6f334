"""Charges that the audit log knows and the ledger lacks are carried over."""

import threading
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.kit import ledger as ledger_check
from melfed.client.ledger.ledger import verify
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import LedgerError
from tests.client.commands import Command
from tests.client.guards import Work, request
from tests.client.ledger.restored import FILES, backup, clinic_of_24, epsilon, remove, restore, rounds, started, told
from tests.client.worker.test_changed_data import list_patients


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return clinic_of_24(tmp_path)


def refuses(config: ClinicConfig, words: str) -> None:
    """Neither worker nor doctor takes the ledger; one line says how to go on."""
    from melfed.client.worker.process import serve

    with pytest.raises(LedgerError, match=words) as caught:
        serve(config, threading.Event())
    assert "melfed-client ledger continue --by NAME" in str(caught.value)
    assert "\n" not in str(caught.value)
    found = ledger_check(config)
    assert (found.status, found.detail) == ("failed", str(caught.value))


def continued(config: ClinicConfig, command: Command) -> str:
    done = command("ledger", "continue", "--by", "Dr. Ada", "--config", config.path)
    assert done.code == 0, done.err
    return done.out


def test_an_older_backup_is_refused_and_continue_carries_the_charges_over(
    config: ClinicConfig, command: Command
) -> None:
    rounds(config, 1)
    old = backup(config, "monday")
    rounds(config, 2, 3)
    spent = epsilon(config)
    restore(config, old)
    assert epsilon(config) < spent
    refuses(config, "is older than this clinic's audit log, which knows of 2 charges that are not in it")

    assert "goes on with 2 charges that the audit log knew" in continued(config, command)
    assert epsilon(config) == spent
    verified = verify(config.ledger)
    assert [row.round for row in verified.rows if row.status == "reserved"] == [1, 2, 3]
    (event,) = told(config, Event.LEDGER_CONTINUED)
    assert (event["by"], event["carried"], event["charges"], event["head"]) == ("Dr. Ada", 2, 3, verified.head)
    assert ledger_check(config).status == "ok"
    assert "nothing was written" in continued(config, command)
    rounds(config, 4)
    assert epsilon(config) > spent
    assert [event["charge"] for event in told(config, Event.LEDGER_CHARGED)] == [1, 2, 3, 4], "none twice"


def test_what_was_carried_over_is_not_given_again_for_nothing(config: ClinicConfig, command: Command) -> None:
    rounds(config, 1)
    old = backup(config, "monday")
    rounds(config, 2)
    spent = epsilon(config)
    restore(config, old)
    continued(config, command)
    for path in config.worker_state.glob("ledger.training-*"):
        path.unlink()  # the stored replies are lost, too
    rounds(config, 2)
    assert epsilon(config) > spent


def test_a_release_that_the_backup_lacks_is_not_released_twice_for_one_price(
    config: ClinicConfig, command: Command
) -> None:
    guard = started(config)
    guard.pay("training", request(), lambda: (backup(config, "in between"), Work()())[1])
    spent = epsilon(config)
    restore(config, config.folder / "in between")
    assert [row.status for row in verify(config.ledger).rows] == ["reserved"]
    refuses(config, "is older than this clinic's audit log, which knows of rows that are not in it")
    assert "goes on with 0 charges" in continued(config, command)
    assert [row.status for row in verify(config.ledger).rows] == ["reserved", "spent", "released"]
    for path in config.worker_state.glob("ledger.training-*"):
        path.unlink()
    rounds(config, 1)
    assert epsilon(config) > spent


def test_restored_twice_each_charge_counts_once(config: ClinicConfig, command: Command) -> None:
    rounds(config, 1)
    monday = backup(config, "monday")
    rounds(config, 2)
    tuesday = backup(config, "tuesday")
    rounds(config, 3)
    restore(config, tuesday)
    continued(config, command)
    rounds(config, 4)
    spent = epsilon(config)
    restore(config, monday)
    refuses(config, "knows of 3 charges")
    continued(config, command)
    assert epsilon(config) == spent
    rounds(config, 5)
    restore(config, tuesday)
    continued(config, command)
    assert [row.round for row in verify(config.ledger).rows if row.status == "reserved"] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("files", [FILES, ("ledger.jsonl", "ledger.jsonl.head"), ("ledger.jsonl",)])
def test_a_missing_ledger_is_refused_and_made_anew_from_the_log(
    config: ClinicConfig, command: Command, files: tuple[str, ...]
) -> None:
    rounds(config, 1, 2, run="a")
    rounds(config, 1, run="b")
    spent = epsilon(config)
    remove(config, *files)
    refuses(config, "is missing, but not for the audit log, which knows of 3 charges")
    said = continued(config, command)
    assert "goes on with 3 charges that the audit log knew" in said
    assert ("goes on with 24 images" in said) == (len(files) == 3), "another key: the data count as changed"
    assert epsilon(config) == spent
    rounds(config, 3, run="a")
    assert epsilon(config) > spent
    runs = {row.run for row in verify(config.ledger).rows}
    assert runs == {"a", "b"}


def test_changed_data_and_a_lost_ledger_go_together(config: ClinicConfig, command: Command) -> None:
    rounds(config, 1)
    old = backup(config, "monday")
    list_patients(config, range(20))
    for number in range(20, 24):
        (config.data_folder / f"{number}.png").unlink()
    continued(config, command)
    rounds(config, 2)
    spent = epsilon(config)
    restore(config, old)
    refuses(config, "knows of 1 charge that")
    continued(config, command)
    assert epsilon(config) == spent
    assert len(verify(config.ledger).changes) == 1
    rounds(config, 3)


def test_what_the_log_does_not_know_either_cannot_be_carried_over(config: ClinicConfig, command: Command) -> None:
    rounds(config, 1, 2)
    lines = config.audit_log.read_text().splitlines(keepends=True)
    config.audit_log.write_text("".join(line for line in lines if '"charge":1' not in line))
    remove(config)
    before = sorted(path.name for path in config.worker_state.iterdir())
    done = command("ledger", "continue", "--by", "Dr. Ada", "--config", config.path)
    assert (done.code, done.err.count("\n")) == (10, 1)
    assert "charge 1 is neither in it nor in the audit log; bring back a newer backup" in done.err
    assert not config.ledger.exists()
    assert {path.name for path in config.worker_state.iterdir()} - set(before) <= {"ledger.key"}


def test_the_log_of_an_older_version_knows_that_but_not_what(config: ClinicConfig, command: Command) -> None:
    rounds(config, 1)
    old = backup(config, "monday")
    restore(config, old)
    AuditLog(config.audit_log).record(Event.LEDGER_CHARGED, digest="a" * 64, run="run", round=2, head="b" * 64)
    refuses(config, "is older than this clinic's audit log")
    done = command("ledger", "continue", "--by", "Dr. Ada", "--config", config.path)
    assert done.code == 10
    assert "but not what: an older version wrote that; bring back a newer backup" in done.err
    assert len(verify(config.ledger).rows) == 3
