"""`melfed-client page`: how this clinic is, as a page for a browser on this machine."""

from typing import Annotated

import typer

from melfed.client.cli.options import ConfigArgument, ConfigOption, clinic
from melfed.common.errors import ServiceError
from melfed.common.terminal.console import errors

PORT = 9467


def page(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Loopback port of the page.")] = PORT,
    path: ConfigArgument = None,
    config: ConfigOption = None,
) -> None:
    """Show what was asked of this clinic, what it answered, its ledger and its models, as a page; Ctrl-C ends it.

    It is on loopback alone, and asks for a token: the messenger, which runs what the coordinator sent, reaches loopback
    too. The page changes nothing.
    """
    from melfed.client.config.folders import acting_as_owner
    from melfed.client.page.view import ClinicPage
    from melfed.common.page.access import Access, page_token
    from melfed.common.page.app import page_app
    from melfed.common.page.serve import Listening, PageServer

    here = clinic(path, config)
    file = here.worker_state / "page.token"
    if not here.worker_state.is_dir():
        raise ServiceError(
            f"{here.worker_state}: this clinic has never run; begin with melfed-client start {here.path}"
        )
    with acting_as_owner(here.worker_state):
        token = page_token(file)
    at = Listening("127.0.0.1", port)

    def told() -> None:
        errors.print(f"the page is at {at.url}; Ctrl-C ends it; its token is in {file}")

    PageServer(page_app(ClinicPage(here), Access(token, True, port)), at, told).serve_until_told()


def add_to(app: typer.Typer) -> None:
    """Add this command to `melfed-client`."""
    app.command()(page)
