"""The server's health service on loopback."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from melfed.common.errors import ServiceError
from melfed.server.daemon.health import NOT_SERVING, SERVING, Health
from tests.server.coordinator import free_ports


def asked(port: int, name: str) -> int:
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status: int = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10).status
        return status


def test_children_and_everything_are_told_apart() -> None:
    health, (port,) = Health(), free_ports(1)
    with health.served(port):
        assert asked(port, "") == NOT_SERVING, "before anything is known"
        health.tell({"nginx": True, "superlink": False}, everything=False)
        assert [asked(port, name) for name in ("nginx", "superlink", "")] == [SERVING, NOT_SERVING, NOT_SERVING]
        health.tell({"nginx": True, "superlink": True}, everything=True)
        assert asked(port, "") == SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            asked(port, "other")
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_port_that_is_taken_is_said_and_no_port_is_nowhere() -> None:
    (port,) = free_ports(1)
    taken = rf"^127.0.0.1:{port}: taken by another program; choose another health_port in server.yaml$"
    with Health().served(port), pytest.raises(ServiceError, match=taken), Health().served(port):
        pass
    with Health().served(None):
        pass
