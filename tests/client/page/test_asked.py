"""What was asked of a clinic."""

from melfed.client.page.asked import OUTCOMES, asked
from melfed.common.audit.events import Event
from melfed.common.page.audit import shown


def record(event: Event, log: str = "worker", **fields: object) -> dict[str, object]:
    return shown({"time": "t", "id": event.id, **fields}, log)


def test_requests_stand_with_what_became_of_them() -> None:
    rows = asked(
        [
            record(Event.REQUEST_DECLINED, kind="train", digest="d", round=3, reason="spent"),
            record(Event.WORKER_STARTED),
            record(Event.REQUEST_ANSWERED, kind="evaluate", run="r", seconds=1.25),
            record(Event.REQUEST_ANSWERED, log="messenger", kind="forged"),
        ]
    )
    assert [(row["kind"], row["outcome"], row["reason"], row["seconds"]) for row in rows] == [
        ("train", "declined", "spent", ""),
        ("evaluate", "answered", "", "1.25"),
    ]


def test_every_event_of_a_request_has_its_outcome() -> None:
    requests = {event.id for event in Event if event.short_name.startswith("request-")}
    assert requests <= OUTCOMES.keys()
