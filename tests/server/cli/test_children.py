"""Hidden commands of the daemon's children."""

import pytest
from typer.testing import CliRunner

from melfed.common.errors import ServiceError
from melfed.server.cli.main import app
from melfed.server.flower import superlink

CHILDREN = ("superlink", "superexec", "serverapp")


def test_they_are_commands_that_help_does_not_show() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in CHILDREN:
        assert name not in shown
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_a_serverapp_has_its_token_from_the_standard_input_and_its_daemon_named(
    config, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(superlink, "run_serverapp", lambda *arguments: called.append(arguments))
    CliRunner().invoke(app, ["serverapp", "--daemon", "7"], input="secret\nmore\n", catch_exceptions=False)
    ((found, token, daemon),) = called
    assert (found.path, token, daemon) == (config.path, "secret", 7)
    with pytest.raises(ServiceError, match="no token on the standard input; the superexec starts this command"):
        CliRunner().invoke(app, ["serverapp", "--daemon", "7"], input="\n", catch_exceptions=False)
    assert len(called) == 1


def test_the_others_are_given_the_configuration(config, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in ("superlink", "superexec"):
        monkeypatch.setattr(superlink, f"run_{name}", lambda found, name=name: called.append((name, found.path)))
        CliRunner().invoke(app, [name, "--config", str(config.path)], catch_exceptions=False)
    assert called == [("superlink", config.path), ("superexec", config.path)]
