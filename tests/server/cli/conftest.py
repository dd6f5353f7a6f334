"""A coordinator's kit in this folder, for the tests of its commands."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from melfed.common.locks import only_one
from melfed.server.config import ServerConfig
from melfed.server.daemon.state import DaemonState, write_daemon_state
from tests.server.coordinator import make_kits

STUDY = "name: s\nmodel: {backbone: simple_cnn, pretrained: false}\nfederation: {rounds: 2}\n"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerConfig]:
    before, mask = dict(os.environ), os.umask(0o022)  # `start` sets it
    found = make_kits(tmp_path / "kits", "ab")
    (tmp_path / "s.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELFED_SERVER", str(found.path))
    yield found
    os.umask(mask)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def running(config: ServerConfig) -> Iterator[ServerConfig]:
    """As if a daemon ran."""
    write_daemon_state(config.daemon_state, DaemonState(pid=os.getpid(), started="now"))
    with only_one(config.daemon_lock, "the server is run"):
        yield config
