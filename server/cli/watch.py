"""`melfed-server watch`: what happens on this server, as it happens, as lines or as a page."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.common.terminal.console import errors
from melfed.server.cli.options import ConfigArgument, ConfigOption, named_once, own_configuration

if TYPE_CHECKING:
    from melfed.common.page.serve import Listening
    from melfed.server.config import ServerConfig

PORT = 9466
PAUSE = 0.3
FIRST_BYTES = 4000
"""Of the audit log's end, which are shown before what comes."""


def watch(
    page: Annotated[bool, typer.Option("--page", help="Show it as a page for a browser.")] = False,
    address: Annotated[
        str, typer.Option(help="IP address of the page; where others reach it, it has TLS and asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port of the page.")] = PORT,
    path: ConfigArgument = None,
    config: ConfigOption = None,
) -> None:
    """Follow what happens on this server until Ctrl-C: records of the audit log, or with --page clinics and rounds too.

    The page changes nothing, and a server goes on without it.
    """
    server = own_configuration(named_once(path, config))
    if page:
        _serve(server, address, port)
    else:
        _print(server)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(watch)


def _serve(server: "ServerConfig", address: str, port: int) -> None:
    from melfed.common.page.access import Access, page_token
    from melfed.common.page.app import page_app
    from melfed.common.page.serve import PageServer, is_loopback
    from melfed.server.page.view import ServerPage

    inside = is_loopback(address)
    file = server.state / "page.token"
    token = None if inside else page_token(file)
    at = _listening(server, address, port, inside)

    def told() -> None:
        errors.print(f"the page is at {at.url}; Ctrl-C ends it{'' if inside else f'; its token is in {file}'}")

    PageServer(page_app(ServerPage(server), Access(token, inside, port)), at, told).serve_until_told()


def _listening(server: "ServerConfig", address: str, port: int, inside: bool) -> "Listening":
    from melfed.common.page.serve import Listening

    if inside:
        return Listening(address, port)
    return Listening(address, port, server.certificate, server.certificate_key)


def _print(server: "ServerConfig") -> None:
    from melfed.common.page.tail import Tail
    from melfed.common.terminal.audit_rows import show_rows

    tail = Tail(Path(server.audit_log), FIRST_BYTES)
    try:
        while True:
            tail.began_anew()
            show_rows(tail.rows(), None, None, as_json=False)
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        return
