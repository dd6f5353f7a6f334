"""What was asked of a clinic, and what it answered, from the audit log's records of requests."""

from collections.abc import Iterable
from typing import Any, Final

from melfed.common.audit.events import Event

OUTCOMES: Final = {
    Event.REQUEST_ANSWERED.id: "answered",
    Event.REQUEST_DECLINED.id: "declined",
    Event.REQUEST_REFUSED.id: "refused",
    Event.REQUEST_REPEATED.id: "answered again, at no cost",
    Event.REQUEST_CANCELLED.id: "called off",
    Event.MODEL_TAKEN.id: "model kept",
    Event.MODEL_REFUSED.id: "model not kept",
    Event.BUNDLE_REFUSED.id: "app not run",
}
"""What became of it, by the event's number."""
FIELDS = ("kind", "study", "digest", "run", "round", "seconds", "reason")


def asked(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records that are of requests, as rows: when, what, and what became of it.

    Args:
        records: of the worker's log, as `melfed.common.page.audit.shown` returns them. What the messenger's log says
            was written by processes that run what the coordinator sent: it is left to the list of events.
    """
    return [
        {
            "time": record["time"],
            "outcome": OUTCOMES[record["id"]],
            "severity": record["severity"],
            **{name: record["fields"].get(name, "") for name in FIELDS},
        }
        for record in records
        if record["id"] in OUTCOMES and record["log"] == "worker"
    ]
