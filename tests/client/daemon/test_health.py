"""The health service on loopback: what is told of each process, and of all together."""

import pytest

from melfed.client.daemon.health import HealthServer, ask_health
from melfed.common.errors import ServiceError

NAMES = ("", "worker", "supernode", "other")


def test_each_process_and_all_together_are_told_and_an_unknown_one_is_not() -> None:
    with HealthServer(0) as server:
        server.tell({"worker": True, "supernode": False})
        assert ask_health(server.port, NAMES) == {"": False, "worker": True, "supernode": False}
        server.tell({"worker": True, "supernode": True})
        assert ask_health(server.port, NAMES) == {"": True, "worker": True, "supernode": True}
        port = server.port
    assert ask_health(port, NAMES, seconds=0.5) is None, "nobody answers any more"


def test_a_port_that_is_taken_is_said_with_its_mend() -> None:
    with (
        HealthServer(0) as first,
        pytest.raises(
            ServiceError, match=rf"^port {first.port} on loopback is taken: .* another health_port in clinic"
        ),
        HealthServer(first.port),
    ):
        pass
