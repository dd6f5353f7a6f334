"""The doctor's look at the kit and the state folder, in good and bad state."""

import os
import pwd
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.kit import (
    audit_logs,
    can_enter,
    configuration,
    keys,
    ledger,
    own_certificate,
    state_folders,
    state_steps,
    weights,
)
from melfed.client.ledger.budget import Budget
from melfed.client.ledger.key import ledger_key
from melfed.client.ledger.ledger import Charge, Ledger
from melfed.client.privacy.accounting import Mechanism
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.doctor.steps import examine_steps
from melfed.server.clinics.certificates import make_authority, make_clinic_certificate
from tests.client.doctors import edit, make_kit, write_private


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return make_kit(tmp_path / "kit", tmp_path / "data")


def spend(config: ClinicConfig, steps: int) -> None:
    charge = Charge("ab" * 32, "run", 1, "training", "patient", Mechanism(0.1, 1.0, steps), 1e-5)
    ledger_key(config.ledger)
    with Ledger.open(config.ledger, "cd" * 32) as book:
        book.mark(book.reserve(charge, Budget(None, 1e-5)), "spent")


def test_all_is_well(config: ClinicConfig) -> None:
    found = {check.name: check.status for check in examine_steps(state_steps(config))}
    assert found["weights"] in ("ok", "warning")
    assert found["audit log"] == "skipped"
    assert {found[name] for name in found.keys() - {"weights", "audit log"}} == {"ok"}


@pytest.mark.parametrize("section", ["name", "coordinator", "data"])
def test_a_section_that_is_missing(config: ClinicConfig, section: str) -> None:
    found = configuration(ClinicConfig(config.path, config.file.model_copy(update={section: None})))
    assert found.status == "failed"
    assert section in found.mend


def test_no_bundle_is_let_run(config: ClinicConfig) -> None:
    assert "apps" in configuration(edit(config, f'apps: ["{"ab" * 32}"]\n', "")).detail


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_configuration_that_others_can_write(config: ClinicConfig, mode: int) -> None:
    config.path.chmod(mode)
    found = configuration(config)
    assert found.status == "failed"
    assert "chmod go-w" in found.mend


def test_an_open_policy_is_warned_about(config: ClinicConfig) -> None:
    assert configuration(edit(config, "policy: {", "policy: {studies: any, ")).status == "warning"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700])
@pytest.mark.parametrize("name", ["clinic.key", "node.key"])
def test_a_key_that_others_can_read(config: ClinicConfig, name: str, mode: int) -> None:
    (config.folder / name).chmod(mode)
    (found,) = (check for check in examine_steps(state_steps(config)) if check.name == "secrets")
    assert found.status == "failed"
    assert name in found.detail
    assert f"chmod 600 {config.folder / name}" in found.mend


def test_a_certificate_for_each_fault(config: ClinicConfig) -> None:
    assert own_certificate(config).status == "ok"
    own, key = config.certificate.read_bytes(), config.certificate_key.read_bytes()
    other = make_clinic_certificate(make_authority("consortium"), "consortium", "north", 300)
    config.certificate.write_bytes(other.certificate)
    assert "not the key of" in own_certificate(config).detail
    write_private(config.certificate_key, other.key)
    assert "not from the authority" in own_certificate(config).detail
    config.certificate.write_bytes(own)
    write_private(config.certificate_key, b"nonsense")
    assert "holds no private key" in own_certificate(config).detail
    write_private(config.certificate_key, key)
    config.certificate.write_text("nonsense")
    assert "holds no certificate" in own_certificate(config).detail
    config.certificate.unlink()
    found = own_certificate(config)
    assert (found.status, found.detail) == ("failed", "clinic.crt is missing")
    assert "kit" in found.mend


@pytest.mark.parametrize(("days", "status", "word"), [(-1, "failed", "expired"), (29, "warning", "in 29 days")])
def test_a_certificate_that_ends(tmp_path: Path, days: int, status: str, word: str) -> None:
    found = own_certificate(make_kit(tmp_path / "kit", tmp_path, days=days))
    assert found.status == status
    assert word in found.detail


def test_state_folders_that_others_can_enter(config: ClinicConfig) -> None:
    config.worker_state.chmod(0o755)
    found = state_folders(config)
    assert found.status == "failed"
    assert f"chmod 700 {config.worker_state}" in found.mend
    config.worker_state.rmdir()
    assert state_folders(config).status == "ok"
    config.worker_state.write_text("")
    assert "no folder" in state_folders(config).detail


@pytest.mark.skipif(os.geteuid() != 0, reason="folders below /tmp/pytest-of-… are closed to others")
def test_a_messenger_that_can_read_the_data(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    (config.folder.parent / "data").mkdir(mode=0o755)
    named = edit(config, "name: north", "name: north\nmessenger: {user: nobody}")
    assert state_folders(named).status == "ok", "the folders above are closed"
    monkeypatch.setattr(Path, "parents", property(lambda _: ()))
    found = state_folders(named)
    assert found.status == "warning"
    assert "nobody can read" in found.detail


def test_who_can_enter_a_folder(tmp_path: Path) -> None:
    assert not can_enter("no-such-user-here", tmp_path)
    assert can_enter(pwd.getpwuid(os.geteuid()).pw_name, tmp_path)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not can_enter("nobody", closed)


def test_a_ledger_that_is_whole_says_what_is_left(config: ClinicConfig) -> None:
    assert "all of ε 3 is left" in ledger(config).detail
    spend(config, 5)
    found = ledger(config)
    assert found.status == "ok"
    assert "1 charge, chain whole" in found.detail
    spend(config, 4000)
    assert ledger(config).status == "warning"


def test_a_ledger_that_was_changed_or_taken_away(config: ClinicConfig) -> None:
    spend(config, 5)
    text = config.ledger.read_text()
    config.ledger.write_text(text.replace('"steps":5', '"steps":1'))
    assert ledger(config).status == "failed"
    config.ledger.unlink()
    found = ledger(config)
    assert found.status == "failed", "its second file tells that there was one"
    assert "train on nothing" in found.mend


def test_audit_logs(config: ClinicConfig) -> None:
    for folder in (config.worker_state, config.messenger_state):
        AuditLog(folder / "audit.jsonl").record(Event.CONNECTED, seconds=1.0)
        AuditLog(folder / "audit.jsonl").record(Event.CONNECTED, seconds=2.0)
    found = audit_logs(config)
    assert found.status == "ok"
    assert found.detail.count("2 records") == 2
    path = config.messenger_state / "audit.jsonl"
    path.write_text(path.read_text().replace("1.0", "9.0"))
    assert audit_logs(config).status == "failed"


def test_weights(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melfed.client.doctor.kit.find_spec", lambda _: None)
    assert weights(config).status == "warning"
    assert weights(config).mend.endswith("the worker downloads nothing")
    config.weights.mkdir()
    (config.weights / "notes.txt").touch()
    assert weights(config).status == "warning"
    (config.weights / "squeezenet1_1.pth").touch()
    assert weights(config).status == "ok"
    assert weights(config).detail.startswith("1 file in ")


def test_the_time_is_part_of_the_judgement(config: ClinicConfig) -> None:
    from melfed.common.doctor.kit import certificate

    early = datetime(2020, 1, 1, tzinfo=UTC)
    found = certificate(config.certificate, config.certificate_key, config.ca_certificate, "mend", early)
    assert (found.status, found.mend) == ("failed", "set the clock")


@pytest.mark.skipif(os.geteuid() != 0, reason="looks as other users: needs root")
def test_keys_and_weights_are_looked_at_as_those_who_need_them() -> None:
    """Below /opt, since a folder of pytest's lets no other user in."""
    with tempfile.TemporaryDirectory(dir="/opt") as name:
        Path(name).chmod(0o755)
        config = make_kit(Path(name) / "kit", Path(name) / "data")
        config.weights.mkdir()
        (config.weights / "squeezenet1_1.pth").touch(0o600)
        assert (keys(config).status, weights(config).status) == ("ok", "ok"), "all is root's"
        for folder in (config.worker_state, config.messenger_state):
            os.chown(folder, 65534, 65534)
        found = keys(config)
        assert found.status == "failed"
        assert "clinic.key, node.key: the messenger's user nobody cannot read it" in found.detail
        assert f"chown nobody {config.certificate_key} {config.node_key}" in found.mend
        os.chown(config.certificate_key, 65534, 65534)
        assert keys(config).detail.startswith("node.key:")
        os.chown(config.node_key, 65534, 65534)
        assert keys(config).status == "ok"
        assert "1 of 1 files cannot be read by nobody" in weights(config).detail
        (config.weights / "squeezenet1_1.pth").chmod(0o644)
        assert weights(config).status == "ok"
