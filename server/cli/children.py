"""Hidden commands of `melfed-server`: what the daemon's child processes run."""

import sys
from typing import Annotated

import typer

from melfed.common.errors import ServiceError
from melfed.server.cli.options import ConfigOption, configuration

MAX_TOKEN = 1024


def superlink(config: ConfigOption = None) -> None:
    """Be Flower's SuperLink."""
    from melfed.server.flower.superlink import run_superlink

    run_superlink(configuration(config))


def superexec(config: ConfigOption = None) -> None:
    """Be Flower's superexec, which starts ServerApps."""
    from melfed.server.flower.superlink import run_superexec

    run_superexec(configuration(config))


def serverapp(
    daemon: Annotated[int, typer.Option(help="Process id of the daemon, with which this one ends.")],
    config: ConfigOption = None,
) -> None:
    """Be the process of one ServerApp; its token comes on the standard input."""
    from melfed.server.flower.superlink import run_serverapp

    token = sys.stdin.readline(MAX_TOKEN).strip()
    if not token:
        raise ServiceError("melfed-server serverapp: no token on the standard input; the superexec starts this command")
    run_serverapp(configuration(config), token, daemon)


def add_to(app: typer.Typer) -> None:
    """Add these commands, unseen by `--help`."""
    for function in (superlink, superexec, serverapp):
        app.command(hidden=True)(function)
