"""Following what happens on this server."""

import stat
import time

import pytest

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import ServiceError
from melfed.common.page.serve import PageServer
from melfed.server.config import ServerConfig
from tests.server.cli.commands import call


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[PageServer]:
    """The servers that were begun, none of which listens."""
    servers: list[PageServer] = []

    def serve(server: PageServer) -> None:
        servers.append(server)
        server._told()

    monkeypatch.setattr(PageServer, "serve_until_told", serve)
    return servers


def test_on_loopback_the_page_needs_no_token(running: ServerConfig, begun: list[PageServer]) -> None:
    told = call("watch", "--page", "--port", "4711")
    assert told == "the page is at http://127.0.0.1:4711/; Ctrl-C ends it\n"
    assert (begun[0].config.host, begun[0].config.ssl_certfile) == ("127.0.0.1", None)
    assert not (running.state / "page.token").exists()


def test_elsewhere_it_has_tls_and_a_token_that_nobody_is_told(running: ServerConfig, begun: list[PageServer]) -> None:
    told = call("watch", "--page", "--address", "0.0.0.0", str(running.path))
    file = running.state / "page.token"
    assert told == f"the page is at https://0.0.0.0:9466/; Ctrl-C ends it; its token is in {file}\n"
    assert begun[0].config.ssl_certfile == running.certificate
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(ServiceError, match="here: no IP address"):
        call("watch", "--page", "--address", "here")


def test_without_a_page_records_are_printed_as_they_come(running: ServerConfig, monkeypatch) -> None:
    log = AuditLog(running.audit_log, "daemon")
    log.record(Event.SERVER_STARTED)

    def sleep(seconds: float) -> None:
        if "finished" in running.audit_log.read_text():
            raise KeyboardInterrupt
        log.record(Event.ROUND_FINISHED, run="r", round=7)

    monkeypatch.setattr(time, "sleep", sleep)
    lines = call("watch").splitlines()
    assert ["server-started" in lines[0], "round-finished" in lines[-1], len(lines)] == [True, True, 2]
