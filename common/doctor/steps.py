"""Examinations of an installation: what a check says, and how checks are run so that none raises or hangs.

Both doctors (`melfed-client doctor`, `melfed-server doctor`) are lists of steps for `examine_steps`.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal, NamedTuple

CheckStatus = Literal["ok", "warning", "failed", "skipped"]

MARKS: Final[dict[CheckStatus, str]] = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "–"}
"""How a table shows a status."""

STYLES: Final[dict[CheckStatus, str]] = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
"""Colours of the marks."""

UNMENDED: Final = "run the doctor again; if it stays, report it with the version and what this table says"


@dataclass(frozen=True)
class Check:
    """What one examination found.

    Attributes:
        name: what was examined.
        status: `warning` works now and may not later; `failed` does not work; `skipped` could not or need not be told.
        detail: what is so. Holds counts, never the name of an image or a patient.
        mend: what exactly to do, one sentence; empty where nothing is to be done.
    """

    name: str
    status: CheckStatus
    detail: str
    mend: str = ""


class Finding(NamedTuple):
    """A check without its name."""

    status: CheckStatus
    detail: str
    mend: str = ""


def good(detail: str) -> Finding:
    """All is well."""
    return Finding("ok", detail)


def doubtful(detail: str, mend: str) -> Finding:
    """It works now, and may not later or elsewhere."""
    return Finding("warning", detail, mend)


def bad(detail: str, mend: str) -> Finding:
    """It does not work."""
    return Finding("failed", detail, mend)


def skipped(detail: str) -> Finding:
    """It could not, or need not, be examined."""
    return Finding("skipped", detail)


@dataclass(frozen=True)
class Step:
    """One examination: its name, what it does, its longest time, and the steps that must not have failed before it."""

    name: str
    examine: Callable[[], Finding]
    seconds: float = 10.0
    needs: tuple[str, ...] = ()


def examine_steps(steps: Iterable[Step], on_check: Callable[[Check], None] | None = None) -> list[Check]:
    """Run steps one after another; nothing that a step does raises or takes longer than its time.

    A step that is out of time goes on in a thread that nobody waits for.

    Args:
        steps: in an order in which each comes after those that it needs.
        on_check: called with each check as soon as it is known.
    """
    checks: list[Check] = []
    for step in steps:
        missing = [check.name for check in checks if check.name in step.needs and check.status in ("failed", "skipped")]
        finding = skipped(f"needs: {', '.join(missing)}") if missing else _bounded(step)
        checks.append(Check(step.name, *finding))
        if on_check is not None:
            on_check(checks[-1])
    return checks


def exit_code(checks: Sequence[Check]) -> int:
    """Return what a doctor leaves with: 0, or 1 where a check has failed. Warnings do not count."""
    return int(any(check.status == "failed" for check in checks))


def to_json(checks: Sequence[Check]) -> str:
    """Return checks as a JSON list of objects with the keys of `Check`."""
    return json.dumps([asdict(check) for check in checks], indent=2, ensure_ascii=False)


def _bounded(step: Step) -> Finding:
    """Return what a step finds, within its time."""
    answers: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_safely(step)), name=f"doctor: {step.name}", daemon=True).start()
    try:
        return answers.get(timeout=step.seconds)
    except queue.Empty:
        return bad(f"no answer within {step.seconds:g} s", "find out what it waits for (a network share, a device)")


def _safely(step: Step) -> Finding:
    """Return what a step finds; an exception is a finding as well.

    Of an exception that the step did not foresee only the kind is told: its text may hold the path of an image.
    """
    try:
        return step.examine()
    except PermissionError:
        return doubtful("this user may not look", "run the doctor as root, or as the user of the service")
    except OSError as error:
        return bad(f"cannot be examined: {error.strerror or type(error).__name__}", UNMENDED)
    except Exception as error:  # noqa: BLE001 (a doctor that falls ill itself must say so and go on)
        return bad(f"cannot be examined: {type(error).__name__}", UNMENDED)
