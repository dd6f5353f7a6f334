"""A clinic's page, from the command line."""

import stat

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.common.page.serve import PageServer
from tests.client.commands import Command


def test_it_is_on_loopback_with_a_token_in_a_file(
    command: Command, config: ClinicConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_worker(config)
    begun: list[PageServer] = []
    monkeypatch.setattr(PageServer, "serve_until_told", lambda server: (begun.append(server), server._told()))
    done = command("page", config.path, "--port", 4712)
    file = config.worker_state / "page.token"
    assert done.code == 0
    assert done.err == f"the page is at http://127.0.0.1:4712/; Ctrl-C ends it; its token is in {file}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert begun[0].config.host == "127.0.0.1"


def test_before_the_first_start_it_says_what_to_do(command: Command, config: ClinicConfig) -> None:
    done = command("page", config.path)
    assert (done.code, "melfed-client start" in done.err) == (14, True)
