"""Commands of `melfed-server` on finished runs of one round: solve, worth, forget; join, which asks one clinic."""

import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.common.errors import RunError, StudyError
from melfed.common.terminal.console import JsonOption, errors, output
from melfed.server.cli.options import ConfigOption, path_of_run

if TYPE_CHECKING:
    from rich.table import Table

    from melfed.common.moments.worth import Estimate, Worth

Run = Annotated[Path, typer.Argument(help="A finished run of one round: its folder or name.", show_default=False)]


def solve(
    run: Run,
    out: Annotated[Path, typer.Option(help="New folder for the model.", show_default=False)],
    solver: Annotated[
        str | None, typer.Option(help="logistic, discriminant or ridge.", show_default="the study's")
    ] = None,
    ridge: Annotated[float, typer.Option(min=1e-6, max=1e6, help="Regularisation, over that of the noise.")] = 1.0,
    positive_weight: Annotated[
        float | None, typer.Option(min=1e-3, max=1000, help="Weight of a melanoma.", show_default="the study's")
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Share of melanomas where the head is used.", show_default="of all"),
    ] = None,
    clinic: Annotated[
        str | None, typer.Option(help="Take the prevalence from this clinic's release.", show_default=False)
    ] = None,
) -> None:
    """Solve another head from the kept releases, for no further ε; the run itself stays as it is."""
    from melfed.common.moments.solvers import SOLVERS
    from melfed.server.results.post_processing import prevalence_of, write_head
    from melfed.server.results.solved import Terms
    from melfed.server.runs.folder import RunFolder

    if prevalence is not None and clinic is not None:
        raise StudyError("--prevalence and --clinic exclude each other: state the share, or whose it is")
    if solver is not None and solver not in SOLVERS:
        raise StudyError(f"--solver {solver}: known are {', '.join(SOLVERS)}")
    folder = RunFolder.open(path_of_run(run))
    own = Terms.of(folder.study())
    share = prevalence if clinic is None else prevalence_of(folder, clinic)
    wanted: dict[str, str | float | None] = {"ridge": ridge, "prevalence": share}
    chosen = {"solver": solver, "positive_weight": positive_weight}
    wanted |= {name: value for name, value in chosen.items() if value is not None}
    solution = write_head(folder, out, own.model_copy(update=wanted))
    shown = ", ".join(f"{name} {value}" for name, value in solution.terms.model_dump().items() if value is not None)
    output.print(f"{out}: {shown}; from the releases of {', '.join(solution.clinics)}", soft_wrap=True)
    errors.print("note: nobody has evaluated this head; use it with melfed-server predict, evaluate", style="yellow")


def worth(
    run: Run,
    error: Annotated[bool, typer.Option("--error", help="Judge by squared error in place of AUROC.")] = False,
    figure: Annotated[Path | None, typer.Option(help="SVG file to draw.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each clinic's release, and each pair, added to the head: algebra on what is kept, for no further ε.

    Judged by all moments, training and validation: approximations, with 95 % intervals for the noise and the choice of
    patients. Of up to 12 clinics.
    """
    from dataclasses import asdict

    from melfed.common.files import write_text
    from melfed.server.report.worth import worth_svg
    from melfed.server.results.post_processing import worth_of
    from melfed.server.runs.folder import RunFolder

    found = worth_of(RunFolder.open(path_of_run(run)), "squared_error" if error else "auroc")
    if figure is not None:
        write_text(figure, worth_svg(found))
    if as_json:
        content = asdict(found) | {"pairs": {" + ".join(pair): asdict(e) for pair, e in found.pairs.items()}}
        sys.stdout.write(json.dumps(content, indent=2) + "\n")
        return
    output.print(_worth_table(found))
    errors.print("note: approximations: scores are taken as normal, and heads of subsets are Fisher's", style="dim")


def forget(
    run: Run,
    clinic: Annotated[str, typer.Argument(metavar="CLINIC", help="Its name.", show_default=False)],
) -> None:
    """Take a clinic out of a finished run of one round: delete its release, and solve the head from the others'."""
    from melfed.common.audit.events import Event
    from melfed.common.audit.log import AuditLog
    from melfed.server.cli.options import configuration
    from melfed.server.results.post_processing import NOT_EVALUATED, without
    from melfed.server.runs.folder import RunFolder
    from melfed.server.runs.request import NAME

    folder = RunFolder.open(path_of_run(run))
    deployed = (folder.path / NAME).exists()
    log = AuditLog(configuration(None).audit_log, "server") if deployed else None
    by = getpass.getuser()
    solution = without(folder, clinic, by)
    if log is not None:
        log.record(Event.RELEASE_FORGOTTEN, run=folder.identity, clinic=clinic, by=by)
    output.print(f"{folder.path}: the head is now that of {', '.join(solution.clinics)}", soft_wrap=True)
    errors.print(f"note: {NOT_EVALUATED}", style="yellow")
    errors.print("note: its ledger keeps what was spent, and models that were published are not recalled")
    if deployed:
        errors.print(f"note: {clinic} deletes its own copy with melfed-client forget {folder.identity}")


def join(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a finished run of one round.", show_default=False)],
    clinic: Annotated[str, typer.Argument(metavar="CLINIC", help="Its name.", show_default=False)],
    config: ConfigOption = None,
) -> None:
    """Add a late clinic's release to a finished run of one round, and solve the head anew; nobody else is asked."""
    from melfed.server.cli.options import own_configuration
    from melfed.server.clinics.registry import read_clinics
    from melfed.server.results.post_processing import NOT_EVALUATED, releases_of
    from melfed.server.runs.folder import RunFolder
    from melfed.server.runs.names import run_path
    from melfed.server.runs.request import change_request, read_request
    from melfed.server.runs.state import change_state

    server = own_configuration(config)
    folder = RunFolder.open(run_path(server, Path(run).name))
    _, releases = releases_of(folder, replaces=True)
    known = [record.name for record in read_clinics(server.clinics) if not record.revoked]
    if clinic in releases:
        raise RunError(f"{folder.path}: clinic {clinic} takes part in it already")
    if clinic not in known:
        raise RunError(f"{folder.path}: no approved clinic is called {clinic!r}; known: {', '.join(known)}")
    names = dict.fromkeys((*read_request(folder.path).clinics, clinic))
    change_request(folder.path, clinics=tuple(names), joins=(clinic,))
    change_state(folder.path, wanted=True, status="queued", reason="")
    output.print(f"{folder.path}: {clinic} is asked for its release; see melfed-server status", soft_wrap=True)
    errors.print(f"note: {NOT_EVALUATED}; once it is there: melfed-server run --resume {folder.path.name}")


def _worth_table(found: "Worth") -> "Table":
    from rich.table import Table

    def shown(estimate: "Estimate") -> str:
        return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"

    whole, start = found.together, found.start
    judge = "binormal AUROC" if found.judge == "auroc" else "squared error"
    title = (
        f"{judge} of all together: {whole.value:.4f} ({whole.low:.4f} to {whole.high:.4f}), "
        f"without any: {start.value:.4f} ({start.low:.4f} to {start.high:.4f})"
    )
    table = Table(title=title)
    table.add_column("clinics", overflow="fold")
    for heading in ("adds to all others", "Shapley's value"):
        table.add_column(heading, justify="right")
    for name, estimate in found.alone.items():
        table.add_row(name, shown(estimate), shown(found.shapley[name]))
    table.add_section()
    for pair, estimate in found.pairs.items():
        table.add_row(" + ".join(pair), shown(estimate), "")
    return table


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for function in (solve, worth, forget, join):
        app.command()(function)
