"""Prometheus metrics of the coordinator's daemon, on loopback. They name clinics and runs, and nothing of patients."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from melfed.common.errors import RunError, ServiceError
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.state import RunPhase, read_state


@dataclass(frozen=True)
class Standing:
    """What the daemon knows of the moment: clinics and whether they are online, children and their restarts."""

    clinics: dict[str, bool] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    ready: dict[str, bool] = field(default_factory=dict)
    certificate_days: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rounds:
    """What a run's events add up to."""

    finished: int = 0
    up: int = 0
    down: int = 0
    declined: int = 0
    failed: int = 0
    seconds: float = 0.0


class ServerMetrics(Collector):
    """Reads runs when it is asked; a run whose events have not changed is not read again."""

    def __init__(self, runs: Path, standing: Callable[[], Standing]) -> None:
        self.runs, self.standing = runs, standing
        self._read: dict[Path, tuple[tuple[int, int], _Rounds]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        now = self.standing()
        yield _gauge("melfed_clinic_online", "Whether a clinic is online.", "clinic", now.clinics)
        yield _gauge("melfed_child_ready", "Whether a child process does its work.", "child", now.ready)
        yield _counter("melfed_child_restarts", "How often a child was started again.", "child", now.restarts)
        yield _gauge("melfed_certificate_days", "Days until a certificate ends.", "certificate", now.certificate_days)
        by_status: Counter[str] = Counter(dict.fromkeys(get_args(RunPhase), 0))
        rounds: dict[str, _Rounds] = {}
        for path in sorted(self.runs.iterdir()) if self.runs.is_dir() else []:
            with contextlib.suppress(RunError):  # a damaged run is told of elsewhere
                if path.is_dir() and (state := read_state(path)) is not None:
                    by_status[state.status] += 1
                    rounds[path.name] = self._rounds(path)
        yield _gauge("melfed_runs", "Runs by status.", "status", by_status)
        yield _counter("melfed_rounds", "Rounds that are finished.", "run", {n: r.finished for n, r in rounds.items()})
        yield _counter("melfed_bytes_up", "Bytes of updates that came.", "run", {n: r.up for n, r in rounds.items()})
        yield _counter("melfed_bytes_down", "Bytes of models sent.", "run", {n: r.down for n, r in rounds.items()})
        yield _counter("melfed_declines", "Requests declined.", "run", {n: r.declined for n, r in rounds.items()})
        yield _counter(
            "melfed_lost", "Requests that had no usable answer.", "run", {n: r.failed for n, r in rounds.items()}
        )
        yield _counter(
            "melfed_round_seconds", "Seconds of all rounds.", "run", {n: r.seconds for n, r in rounds.items()}
        )

    def _rounds(self, path: Path) -> _Rounds:
        try:
            status = (path / "metrics.jsonl").stat()
        except OSError:
            return _Rounds()
        key = (status.st_mtime_ns, status.st_size)
        before = self._read.get(path)
        if before is not None and before[0] == key:
            return before[1]
        rows = [event for event in RunFolder(path).events() if event.get("event") == "round"]
        found = _Rounds(
            len(rows),
            sum(row["bytes_up"] for row in rows),
            sum(row["bytes_down"] for row in rows),
            sum(len(row["declined"]) for row in rows),
            sum(len(row["failed"]) for row in rows),
            sum(row["seconds"] for row in rows),
        )
        self._read[path] = (key, found)
        return found


def _gauge(name: str, text: str, label: str, values: "Counter[str] | dict[str, bool] | dict[str, float]") -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


def _counter(name: str, text: str, label: str, values: "dict[str, int] | dict[str, float]") -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], float(value))
    return family


@contextlib.contextmanager
def served(metrics: ServerMetrics, port: int | None) -> Iterator[None]:
    """Answer Prometheus on a loopback port; None: nowhere. Raises ServiceError where the port is taken."""
    if port is None:
        yield
        return
    registry = CollectorRegistry(auto_describe=False)
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        raise ServiceError(f"127.0.0.1:{port}: {error.strerror}; choose another metrics_port in server.yaml") from None
    registry.register(metrics)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
