"""A coordinator's files with clinics, a run and its rounds, as its live page reads them; names and reasons hostile."""

import numpy as np

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.study.protocol import FederationSpec, StudyProtocol
from melfed.server.clinics.self_reports import Said, note_said
from melfed.server.config import ServerConfig
from melfed.server.daemon.state import ChildRow, ClinicRow, DaemonState, write_daemon_state
from melfed.server.federation.members import Conduct, Members
from melfed.server.federation.observer import Silent
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import ReportedAccount
from melfed.server.runs.request import queue_run
from melfed.server.runs.state import change_state
from tests.server.fake_run import NOISED, scores

HOSTILE = "</script><script>document.title='broken in'</script><img src=x onerror=document.title='broken-in'>"
CLINICS = ("a", "b", "North-Clinic.1")
STUDY = StudyProtocol(name="s.-_1", federation=FederationSpec(rounds=1000), privacy=NOISED)


def with_clinics(config: ServerConfig) -> None:
    """As if a daemon ran, with three clinics: one online, one that declines, one never seen."""
    clinics = (
        ClinicRow(name="a", online=True, since="2030-01-01T00:00:00+00:00", certificate_ends="2031-01-01T00:00:00"),
        ClinicRow(name="b", since="2020-01-01T00:00:00+00:00", certificate_ends="2031-01-01T00:00:00"),
        ClinicRow(name="North-Clinic.1", revoked=True),
    )
    child = ChildRow(name="superlink", status="ready", pid=1)
    state = DaemonState(pid=1, started="now", children=(child,), clinics=clinics, problems=(HOSTILE,))
    write_daemon_state(config.daemon_state, state)
    note_said(config.clinics_said, "a", Said(version="0.2.0", approved=(STUDY.digest,), budget=2.5))
    note_said(config.clinics_said, "b", Said(version=HOSTILE[:80], approved=("f" * 64,)))
    note_said(config.clinics_said, "b", Said(reason=HOSTILE, declined=STUDY.digest))
    AuditLog(config.audit_log, "daemon").record(Event.CLINIC_DECLINED, run="r", round=1, clinic="b", reason=HOSTILE)


def with_run(config: ServerConfig, rounds: int = 3, name: str = "r") -> RunFolder:
    """A run under way, with so many rounds."""
    folder = queue_run(config.runs / name, STUDY, CLINICS, [])
    change_state(folder.path, status="running", round=rounds, doing=f"round {rounds + 1}: 1 of 3 have answered")
    members = Members(STUDY, folder, Conduct(expected=frozenset(CLINICS), deployed=True), Silent())
    members.counts = {"a": Counts(numbers={"train_units": 100, "train_positive_units": 20}, noise=9.0)}
    members.accounts = {"a": ReportedAccount(1.25, "ab" * 32, 8.0, 4.0)}
    members.remember()
    for number in range(1, rounds + 1):
        add_round(folder, number)
    return folder


def add_round(folder: RunFolder, number: int) -> None:
    """A round that one clinic answered, and its validation."""
    rng = np.random.default_rng(number)
    found = scores(rng, 300, 0.2, skill=1.5)
    folder.append(
        {
            "event": "round",
            "round": number,
            "train_loss": None,
            "seconds": 1.5,
            "bytes_up": 10,
            "bytes_down": 10,
            "answered": ["a"],
            "failed": {HOSTILE: HOSTILE},
            "declined": {"b": HOSTILE},
            "clinics": {},
        }
    )
    folder.append_validation(number, found, {"a": found})
