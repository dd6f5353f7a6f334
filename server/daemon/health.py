"""The gRPC health service on loopback: whether the daemon and each of its children do their work."""

import contextlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from melfed.common.errors import ServiceError

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
THREADS = 4


class Health:
    """Answers `grpc.health.v1.Health`: a service a child, and "" for all together."""

    def __init__(self) -> None:
        self._servicer = health.HealthServicer()
        self.tell({}, False)

    def tell(self, children: Mapping[str, bool], everything: bool) -> None:
        """Say which children are ready, and whether everything is."""
        for name, ready in {**children, "": everything}.items():
            self._servicer.set(name, SERVING if ready else NOT_SERVING)

    @contextlib.contextmanager
    def served(self, port: int | None) -> Iterator[None]:
        """Answer on a loopback port; None: nowhere. Raises ServiceError where the port is taken."""
        if port is None:
            yield
            return
        server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        try:
            bound = server.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise ServiceError(f"127.0.0.1:{port}: taken by another program; choose another health_port in server.yaml")
        server.start()
        try:
            yield
        finally:
            self._servicer.enter_graceful_shutdown()
            server.stop(grace=1).wait(5)
