"""Calling `melfed-server` in this process."""

from typer.testing import CliRunner

from melfed.server.cli.main import app


def call(*words: str) -> str:
    """Run a command in this process; raises what it raises."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=False, standalone_mode=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output
