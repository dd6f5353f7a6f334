"""`melfed-server report`: a finished run's report, written anew, and printed."""

from pathlib import Path
from typing import Annotated

import typer

from melfed.common.terminal.console import output
from melfed.server.cli.options import path_of_run


def report(
    run: Annotated[
        Path, typer.Argument(help="RUN: the run's folder, or, at the server, the run's name.", show_default=False)
    ],
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it too: report.pdf, by Chromium or WeasyPrint.")] = False,
) -> None:
    """Write a finished run's report anew, simulated or deployed; with --pdf as pages to print and file, too."""
    from melfed.server.report.page import write_report
    from melfed.server.report.pdf import write_pdf
    from melfed.server.runs.folder import RunFolder

    folder = RunFolder.open(path_of_run(run))
    written = write_report(folder)
    folder.write_sums()
    output.print(f"report: {written}", soft_wrap=True)
    if pdf:
        output.print(f"pdf: {write_pdf(written)}", soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(report)
