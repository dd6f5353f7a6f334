"""The numbered events of the audit logs: 1xxx at a clinic, 2xxx at the server. Each has a page, docs/events/NNNN.md.

An event lists the fields that its records may have. They name studies, runs, rounds, clinics, processes, and reasons:
what IT has to know, and nothing of a patient. Numbers stay as they are; an event that is no longer told keeps its own.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Severity = Literal["info", "warning", "error"]

_REQUEST = ("kind", "study", "digest", "run", "round", "flower_run", "seconds")
_ROUND = ("run", "round", "clinic", "reason")
_CHILD = ("child", "reason", "restarts")


@dataclass(frozen=True)
class EventInfo:
    """What is the same in all records of an event.

    Attributes:
        id: its number.
        name: its short name, in lower case, with hyphens.
        severity: "error": something does not work until somebody sees to it; "warning": somebody should look.
        meaning: in one line.
        fields: names of the fields that a record may have.
    """

    id: int
    name: str
    severity: Severity
    meaning: str
    fields: tuple[str, ...]


class Event(Enum):
    """All events."""

    WORKER_STARTED = EventInfo(
        1001, "worker-started", "info", "The worker runs and can be asked.", ("version", "device", "studies")
    )
    WORKER_STOPPED = EventInfo(1002, "worker-stopped", "info", "The worker ends.", ("reason",))
    STUDY_APPROVED = EventInfo(
        1003,
        "study-approved",
        "info",
        "The clinic has approved a study.",
        ("study", "digest", "by", "runs", "epsilon", "round_minutes"),
    )
    APPROVAL_REVOKED = EventInfo(
        1004,
        "approval-revoked",
        "info",
        "The clinic has taken its approval of a study back.",
        ("study", "digest", "by"),
    )
    REQUEST_ANSWERED = EventInfo(
        1005, "request-answered", "info", "The worker has done what was asked, and answered.", (*_REQUEST, "bytes")
    )
    REQUEST_DECLINED = EventInfo(
        1006,
        "request-declined",
        "warning",
        "The policy, a missing approval or the spent budget forbids what was asked.",
        (*_REQUEST, "reason", "error"),
    )
    REQUEST_REFUSED = EventInfo(
        1007,
        "request-refused",
        "error",
        "The worker could not do what was asked: the request or something at the clinic is at fault.",
        (*_REQUEST, "reason", "error"),
    )
    REQUEST_REPEATED = EventInfo(
        1008, "request-repeated", "info", "A request came again and got the stored answer, at no cost.", _REQUEST
    )
    REQUEST_CANCELLED = EventInfo(
        1009,
        "request-cancelled",
        "info",
        "Work was called off, or its deadline passed.",
        (*_REQUEST, "reason", "error"),
    )
    BUNDLE_REFUSED = EventInfo(
        1010,
        "bundle-refused",
        "warning",
        "The coordinator sent an app bundle that the clinic has not approved; it was not run.",
        ("sha256", "run", "reason"),
    )
    PEER_REFUSED = EventInfo(
        1011,
        "peer-refused",
        "warning",
        "A process that is not the messenger tried to speak to the worker.",
        ("uid", "pid", "count", "reason"),
    )
    LEDGER_CHARGED = EventInfo(
        1012,
        "ledger-charged",
        "info",
        "Privacy budget was reserved in the ledger.",
        (
            *("digest", "run", "round", "purpose", "charge", "epsilon", "delta", "head"),
            *("data", "unit", "sampling_rate", "noise_multiplier", "steps", "request"),
        ),
    )
    CLINIC_CHILD_ENDED = EventInfo(
        1013, "child-ended", "warning", "A process of the clinic ended on its own; it is started again.", _CHILD
    )
    CLINIC_DISK_FULL = EventInfo(
        1014, "disk-full", "error", "A file of the clinic could not be written; what was there is whole.", ("reason",)
    )
    CONFIGURATION_REFUSED = EventInfo(
        1015, "configuration-refused", "error", "clinic.yaml cannot be used; no study is answered.", ("reason",)
    )
    CONNECTION_LOST = EventInfo(
        1016, "connection-lost", "warning", "The coordinator's server is not reached.", ("coordinator", "reason")
    )
    CONNECTED = EventInfo(1017, "connected", "info", "The coordinator's server is reached.", ("coordinator", "seconds"))

    LEDGER_CONTINUED = EventInfo(
        1018,
        "ledger-continued",
        "warning",
        "The ledger goes on, with changed data or with charges that the audit log knew; what was spent before counts.",
        ("by", "charges", "carried", "head"),
    )
    LEDGER_RELEASED = EventInfo(
        1019,
        "ledger-released",
        "info",
        "The result of a charge is about to leave; asking for it anew is a new charge.",
        ("charge", "digest", "run", "round", "purpose", "head"),
    )

    RELEASE_DELETED = EventInfo(
        1020,
        "release-deleted",
        "warning",
        "The moments that a run was given are deleted here; what they cost stays in the ledger.",
        ("run", "by"),
    )
    MODEL_TAKEN = EventInfo(
        1021,
        "model-taken",
        "info",
        "The coordinator sent a finished model; its signature is right, and it is kept here.",
        ("study", "digest", "run", "flower_run", "model"),
    )
    MODEL_REFUSED = EventInfo(
        1022,
        "model-refused",
        "warning",
        "A finished model came that is not kept: the policy takes none, or it is not what was signed.",
        ("study", "digest", "run", "flower_run", "reason", "error"),
    )
    MODEL_REMOVED = EventInfo(
        1023, "model-removed", "info", "A model was deleted here by the clinic.", ("digest", "run", "model", "by")
    )

    SERVER_STARTED = EventInfo(
        2001,
        "server-started",
        "info",
        "The server was started; clinics can connect once nginx answers.",
        ("version", "port", "clinics"),
    )
    SERVER_STOPPED = EventInfo(2002, "server-stopped", "info", "The server ends.", ("reason",))
    CLINIC_APPROVED = EventInfo(
        2003,
        "clinic-approved",
        "info",
        "A clinic's key and certificate are accepted.",
        ("clinic", "key", "certificate"),
    )
    CLINIC_REVOKED = EventInfo(
        2004,
        "clinic-revoked",
        "warning",
        "A clinic's key and certificate are accepted no longer.",
        ("clinic", "key", "certificate", "reason"),
    )
    RUN_SUBMITTED = EventInfo(
        2005,
        "run-submitted",
        "info",
        "A run was handed to Flower.",
        ("run", "name", "flower_run", "study", "digest", "clinics"),
    )
    ROUND_FINISHED = EventInfo(
        2006,
        "round-finished",
        "info",
        "A round is over and its checkpoint is on disk.",
        ("run", "round", "answered", "failed", "declined", "seconds", "bytes_up", "bytes_down"),
    )
    UPDATE_REFUSED = EventInfo(
        2007,
        "update-refused",
        "warning",
        "A clinic's update failed a check and is not in the model.",
        _ROUND,
    )
    CLINIC_DECLINED = EventInfo(
        2008, "clinic-declined", "warning", "A clinic declined a round by its own policy or budget.", _ROUND
    )
    CLINIC_LOST = EventInfo(
        2009, "clinic-lost", "warning", "A clinic has gone offline, or did not answer before the deadline.", _ROUND
    )
    CLINIC_RETURNED = EventInfo(
        2010, "clinic-returned", "info", "A clinic that was lost is back.", ("run", "round", "clinic", "seconds")
    )
    RUN_COMPLETED = EventInfo(
        2011, "run-completed", "info", "A run has done all its rounds.", ("run", "digest", "rounds", "seconds")
    )
    RUN_FAILED = EventInfo(
        2012, "run-failed", "error", "A run ended before its last round.", ("run", "digest", "round", "reason", "code")
    )
    RUN_STOPPED = EventInfo(
        2013, "run-stopped", "info", "A run was stopped on request.", ("run", "round", "by", "reason")
    )
    SERVER_CHILD_ENDED = EventInfo(
        2014, "child-ended", "warning", "A process of the server ended on its own; it is started again.", _CHILD
    )
    CERTIFICATE_EXPIRES = EventInfo(
        2015,
        "certificate-expires",
        "warning",
        "A certificate expires soon, or has expired.",
        ("clinic", "certificate", "expires", "days"),
    )
    EDGE_RELOADED = EventInfo(
        2016, "edge-reloaded", "info", "nginx has taken over the present list of clinics.", ("clinics", "reason")
    )
    SERVER_DISK_FULL = EventInfo(
        2017, "disk-full", "error", "A file of the server could not be written; what was there is whole.", ("reason",)
    )
    CLINIC_LATE = EventInfo(
        2018, "clinic-late", "info", "A clinic joined a run that was under way.", ("run", "round", "clinic")
    )
    CLINIC_VERSION = EventInfo(
        2019,
        "clinic-version",
        "warning",
        "A clinic runs another version of melfed than the server.",
        ("run", "clinic", "version", "expected"),
    )
    RUN_RESUMED = EventInfo(
        2020,
        "run-resumed",
        "warning",
        "A run goes on from its last checkpoint under a new Flower run.",
        ("run", "round", "flower_run", "reason"),
    )

    RELEASE_FORGOTTEN = EventInfo(
        2021,
        "release-forgotten",
        "warning",
        "A clinic was taken out of a run of one round: its release is deleted, and the head is that of the others.",
        ("run", "clinic", "by"),
    )
    MODEL_DELIVERED = EventInfo(
        2023, "model-delivered", "info", "A clinic has taken a run's finished model.", ("run", "clinic", "digest")
    )
    MODEL_NOT_DELIVERED = EventInfo(
        2024,
        "model-not-delivered",
        "warning",
        "A clinic has not taken a run's finished model: it is away, or declines.",
        ("run", "clinic", "digest", "reason"),
    )

    KEY_USED_TWICE = EventInfo(
        2022,
        "key-used-twice",
        "warning",
        "Two processes use a clinic's key at a time: somebody may hold a copy of its kit.",
        ("clinic", "address", "other", "how"),
    )

    @property
    def id(self) -> int:
        """The number."""
        return self.value.id

    @property
    def short_name(self) -> str:
        """The name in logs (`name` is Python's)."""
        return self.value.name

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        return self.value.severity

    @property
    def meaning(self) -> str:
        """What has happened, in one line."""
        return self.value.meaning

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields that a record may have."""
        return self.value.fields
