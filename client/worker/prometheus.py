"""What a clinic's monitoring can read of its worker: Prometheus metrics, on loopback alone."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from melfed.common.errors import ServiceError

LOOPBACK: Final = "127.0.0.1"


class WorkerMetrics:
    """The worker's counters and gauges. None tells anything of a patient: they count requests, bytes, seconds and ε."""

    def __init__(self, *, budget: bool = True) -> None:
        """Count from 0.

        Args:
            budget: whether ε is told: every user of the machine can read the port, the messenger among them.
        """
        self.registry, self._tells_budget = CollectorRegistry(), budget
        self._requests = Counter(
            "melfed_requests",
            "Requests by what was asked (describe, train, evaluate) and how it ended "
            "(answered, repeated, declined, refused, cancelled).",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self._rounds = Counter("melfed_rounds", "Rounds trained.", registry=self.registry)
        self._seconds = Counter("melfed_training_seconds", "Seconds of training.", registry=self.registry)
        self._received = Counter("melfed_received_bytes", "Bytes of tensors that came.", registry=self.registry)
        self._sent = Counter("melfed_sent_bytes", "Bytes of tensors that left.", registry=self.registry)
        # Absent until they are known: a gauge starts at 0, and "nothing left" would alarm whoever watches.
        self._epsilon: dict[str, Gauge] = {}
        gpu = Gauge("melfed_gpu_memory_bytes", "GPU memory that the worker holds.", registry=self.registry)
        gpu.set_function(gpu_memory)

    def request(self, kind: str, outcome: str) -> None:
        """Count a request."""
        self._requests.labels(kind, outcome).inc()

    def trained(self, seconds: float) -> None:
        """Count a round."""
        self._rounds.inc()
        self._seconds.inc(seconds)

    def traffic(self, received: int = 0, sent: int = 0) -> None:
        """Count bytes of tensors."""
        self._received.inc(received)
        self._sent.inc(sent)

    def privacy(self, spent: float, left: float) -> None:
        """Say how much ε of this clinic's data is spent, and how much the policy leaves; nothing where it is untold."""
        if not self._tells_budget:
            return
        for name, value, text in (("spent", spent, "ε that is spent."), ("left", left, "ε that the policy leaves.")):
            if name not in self._epsilon:
                self._epsilon[name] = Gauge(f"melfed_epsilon_{name}", text, registry=self.registry)
            self._epsilon[name].set(value)

    @contextlib.contextmanager
    def served(self, port: int) -> Iterator[int]:
        """Answer Prometheus on a port of loopback (0: a free one), which is returned, for as long as the body lasts.

        Raises:
            ServiceError: the port is taken.
        """
        try:
            server, thread = start_http_server(port, addr=LOOPBACK, registry=self.registry)
        except OSError as error:
            reason = f"metrics_port {port} on {LOOPBACK} cannot be used: {error.strerror or error}"
            raise ServiceError(f"{reason}; name another in clinic.yaml") from None
        try:
            yield int(server.server_port)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def gpu_memory() -> float:
    """Return how many bytes of GPU memory this process has from its driver; 0 without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    return float(sum(torch.cuda.memory_reserved(device) for device in range(torch.cuda.device_count())))
