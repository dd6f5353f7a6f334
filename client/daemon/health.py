"""The clinic's gRPC health service (`grpc.health.v1`), on loopback: "" for everything, and one name a process."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from melfed.common.errors import ServiceError

ASK_SECONDS = 2.0
_STATUS = health_pb2.HealthCheckResponse


class HealthServer:
    """Answers whether processes do their work. A context manager."""

    def __init__(self, port: int) -> None:
        """Nothing listens before it is entered.

        Args:
            port: on loopback; 0 takes a free one, see `port`.
        """
        self.port = port
        self._servicer = health.HealthServicer()
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        """Listen. Raises ServiceError where the port is taken."""
        from concurrent.futures import ThreadPoolExecutor

        # Without SO_REUSEPORT a second process could not silently share the port.
        server = grpc.server(ThreadPoolExecutor(2), options=(("grpc.so_reuseport", 0),))
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        try:
            self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        except RuntimeError:
            raise ServiceError(
                f"port {self.port} on loopback is taken: end what uses it, or set another health_port in clinic.yaml"
            ) from None
        server.start()
        self._server = server
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Tell watchers that nothing is served any more, and close."""
        self._servicer.enter_graceful_shutdown()
        if self._server is not None:
            self._server.stop(grace=0.5).wait(2)

    def tell(self, serving: Mapping[str, bool]) -> None:
        """Set what is answered for each process, and for all of them together."""
        for name, serves in {**serving, "": all(serving.values())}.items():
            self._servicer.set(name, _STATUS.SERVING if serves else _STATUS.NOT_SERVING)


def ask_health(port: int, names: tuple[str, ...], seconds: float = ASK_SECONDS) -> dict[str, bool] | None:
    """Ask a health service about processes; None where nobody answers, and without those that it does not know.

    Args:
        port: on loopback.
        names: of processes; "" for all of them together.
        seconds: how long to wait for all answers.
    """
    # Loopback, whatever proxy the environment names.
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answers: dict[str, bool] = {}
        for name in names:
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=seconds)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    return None
            else:
                answers[name] = reply.status == _STATUS.SERVING
        return answers
