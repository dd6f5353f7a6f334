"""What the commands share: the configuration, and metrics in words."""

import json
import os

import pytest

from melfed.common.errors import (
    ServerConfigError,
    StorageError,
)
from melfed.common.terminal.console import output
from melfed.server.cli import options as terminal
from melfed.server.cli.options import metrics_table
from tests.server.cli.commands import call


def test_the_configuration_is_found(config, monkeypatch, tmp_path):
    monkeypatch.setenv("MELFED_SERVER", str(tmp_path / "none.yaml"))
    with pytest.raises(ServerConfigError, match=r"^\$MELFED_SERVER: .*none\.yaml: no such file"):
        call("clinics")
    monkeypatch.delenv("MELFED_SERVER")
    monkeypatch.setattr(terminal, "SYSTEM_FILE", tmp_path / "etc" / "server.yaml")
    with pytest.raises(
        ServerConfigError, match=r"neither .*server\.yaml nor .*etc/server\.yaml exists, and \$MELFED_S"
    ):
        call("clinics")
    (tmp_path / "etc").mkdir()
    terminal.SYSTEM_FILE.symlink_to(config.path)
    assert [row["name"] for row in json.loads(call("clinics", "--json"))] == ["a", "b"]
    with pytest.raises(ServerConfigError, match=r"^x\.yaml: no such file"):
        call("clinics", "--config", "x.yaml")


def test_root_and_whoever_else_is_not_the_servers_user_writes_nothing(running, monkeypatch):
    """The server could not read a state that root has written."""
    call("run", "s.yaml", "--out", "r", "--detach")
    before = {path: path.stat().st_mtime_ns for path in running.folder.rglob("*")}
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for words in (
        ("run", "s.yaml", "--detach"),
        ("run", "--resume", "r"),
        ("stop", "r"),
        ("status", "--ask"),
        ("start", str(running.path)),
    ):
        with pytest.raises(StorageError, match=r"belongs to \w+; give this command as that user .*runuser -u \w+ -- "):
            call(*words)
    assert {path: path.stat().st_mtime_ns for path in running.folder.rglob("*")} == before
    call("status")
    call("revoke", "a")  # what root writes there is for everybody to read
    assert (running.clinics / "a.json").stat().st_mode & 0o777 == 0o644


def test_undefined_metrics_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    from melfed.common.metrics.exact import histogram_metrics
    from melfed.common.metrics.histogram import ScoreHistogram

    output.print(metrics_table(histogram_metrics(ScoreHistogram.empty()), "group"))
    assert capsys.readouterr().out.count("undefined") == 7
