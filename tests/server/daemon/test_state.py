"""What the daemon says of itself: read back while it runs, and told apart from one that starts or is not there."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from melfed.common.errors import ServiceError
from melfed.common.locks import only_one
from melfed.server.config import ServerConfig, read_server
from melfed.server.daemon.state import ChildRow, ClinicRow, DaemonState, read_daemon_state, write_daemon_state

STATE = DaemonState(
    pid=7, started="now", children=(ChildRow(name="nginx", status="ready"),), clinics=(ClinicRow(name="a"),)
)


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    (tmp_path / "server.yaml").write_text("name: test\n")
    (tmp_path / "state").mkdir()
    return read_server(tmp_path / "server.yaml")


def test_a_state_is_read_back_with_the_time_of_its_writing(config: ServerConfig) -> None:
    with only_one(config.daemon_lock, "the server is run"):
        write_daemon_state(config.daemon_state, STATE)
        found = read_daemon_state(config)
    assert found == STATE.model_copy(update={"updated": found.updated})
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found.updated)).total_seconds()) < 60


def test_a_server_that_does_not_run_is_not_believed_to_whatever_it_left_behind(config: ServerConfig) -> None:
    write_daemon_state(config.daemon_state, STATE)
    with pytest.raises(
        ServiceError, match=r"server.yaml: the server is not running; start it with melfed-server start"
    ):
        read_daemon_state(config)


@pytest.mark.parametrize("content", [None, "", '{"pid": "x"}'])
def test_one_that_has_not_said_anything_yet_is_starting(config: ServerConfig, content: str | None) -> None:
    if content is not None:
        config.daemon_state.write_text(content)
    with (
        only_one(config.daemon_lock, "the server is run"),
        pytest.raises(ServiceError, match=r"the server is starting; ask again in a few seconds$"),
    ):
        read_daemon_state(config)
