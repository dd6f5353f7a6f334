"""Where the time of a deployed round goes: from the logs of SuperNode and worker and the worker's audit log."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

ANSWERED, FINISHED = 1005, 2006
"""Events: a worker has answered; the coordinator has finished a round."""

_LINE = re.compile(r"\btiming (supernode|worker) (.*)$")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """One line about one message; the steps in seconds, by their names."""

    who: str
    run: int
    round: int
    kind: str
    steps: Mapping[str, float]


@dataclass(frozen=True)
class Parts:
    """One clinic's part in a round, seconds.

    Attributes:
        training: in the worker: validation of the model that came, and training.
        worker: all else that the worker does with a request: policy, ledger, storing the answer, audit log.
        messenger: from the whole request at the SuperNode to the whole reply there, without the worker's.
        transport: of the request from SuperLink to the SuperNode, and of the reply back.
    """

    training: float
    worker: float
    messenger: float
    transport: float

    @property
    def overhead(self) -> float:
        """All but training."""
        return self.worker + self.messenger + self.transport

    @property
    def total(self) -> float:
        """From the moment when the SuperNode learns of the request."""
        return self.training + self.overhead


def timings(log: str) -> list[Timing]:
    """Return what the `timing` lines of a clinic's log say; a line that was cut short is left out."""
    found = []
    for line in log.splitlines():
        if match := _LINE.search(line):
            fields = dict(word.partition("=")[::2] for word in match[2].split())
            try:
                where = int(fields.pop("run")), int(fields.pop("round")), fields.pop("kind")
                steps = {name: int(value) / 1000 for name, value in fields.items()}
            except (KeyError, ValueError):
                continue
            found.append(Timing(match[1], *where, steps))
    return found


def clinic_parts(timed: Iterable[Timing], audit: Iterable[Row]) -> dict[int, Parts]:
    """Return one clinic's parts by round, of rounds that it was asked once in and all logs know.

    Args:
        timed: of one Flower run.
        audit: the worker's audit log.
    """
    lines: dict[tuple[str, int, int], list[Timing]] = {}
    for timing in timed:
        if timing.kind == "train":
            lines.setdefault((timing.who, timing.run, timing.round), []).append(timing)
    found: dict[int, list[Parts]] = {}
    for row in audit:
        if row["id"] != ANSWERED or row.get("kind") != "train":
            continue
        run, number = int(row["flower_run"]), int(row["round"])
        carried, trained = (lines.get((who, run, number), []) for who in ("supernode", "worker"))
        if len(carried) == len(trained) == 1 and {"request", "answer", "reply"} <= carried[0].steps.keys():
            training, worker = trained[0].steps.get("training", 0.0), float(row["seconds"])
            way = carried[0].steps
            parts = Parts(training, worker - training, way["answer"] - worker, way["request"] + way["reply"])
            found.setdefault(number, []).append(parts)
    return {number: parts[0] for number, parts in found.items() if len(parts) == 1}


def round_seconds(audit: Iterable[Row], run: str) -> dict[int, float]:
    """Return how long each round took from the end of the one before to its own, from the coordinator's audit log.

    Args:
        audit: its rows.
        run: the run's identity or name, as the rows have it.
    """
    ends = {int(row["round"]): _moment(row) for row in audit if row["id"] == FINISHED and row.get("run") == run}
    return {number: ends[number] - ends[number - 1] for number in ends if number - 1 in ends}


def _moment(row: Row) -> float:
    return datetime.fromisoformat(str(row["time"])).timestamp()


def split(rounds: Mapping[int, float], clinics: Mapping[str, Mapping[int, Parts]], first: int = 2) -> dict[str, Any]:
    """Return medians over rounds of where the time goes, by the clinic that took longest in each.

    Polling is what is left of the round: Flower's polls at both ends, and the server's own work.

    Args:
        rounds: seconds of each.
        clinics: the parts of each clinic by round.
        first: rounds before it are left out: they prepare images and caches.

    Raises:
        ValueError: there is no round that all logs know.
    """
    used = [n for n in sorted(rounds) if n >= first and all(n in parts for parts in clinics.values())]
    if not used:
        raise ValueError("no round is known to all logs")
    slowest = {n: max((parts[n] for parts in clinics.values()), key=lambda each: each.total) for n in used}
    second = [parts[first].overhead for parts in clinics.values() if first in parts]
    return {
        "rounds": len(used),
        "round": median(rounds[n] for n in used),
        "polling": median(rounds[n] - slowest[n].total for n in used),
        **{name: median(getattr(slowest[n], name) for n in used) for name in Parts.__dataclass_fields__},
        "overhead": median(slowest[n].overhead for n in used),
        "overhead_largest": max(parts[n].overhead for n in used for parts in clinics.values()),
        "second_round_overhead": max(second) if second else None,
    }
