"""`melfed-server export` and `deliver`: a run's model in an open format, and to the clinics."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from melfed.common.errors import RunError
from melfed.common.terminal.console import NOTICE, errors, output
from melfed.common.terminal.export_options import FormatOption, Int8Option, OutOption, tell_exported
from melfed.server.cli.options import ConfigOption, path_of_run

if TYPE_CHECKING:
    from melfed.common.export.facts import ModelFacts
    from melfed.common.model.classifier import Classifier

ClinicOption = Annotated[
    str | None, typer.Option(help="Whose model, of a local baseline, which has one a clinic.", show_default=False)
]
Run = Annotated[Path, typer.Argument(help="RUN: the run's folder, or, at the server, its name.", show_default=False)]


def export(
    run: Run,
    kind: FormatOption,
    out: OutOption,
    int8: Int8Option = None,
    clinic: ClinicOption = None,
) -> None:
    """Write a finished run's model in an open format, with its study, its ε and what it is for."""
    from melfed.common.export.formats import export as export_model

    model, facts = _model_of(run, clinic)
    export_model(model, facts, kind, out, int8)
    tell_exported(facts, kind, out, int8)
    errors.print(NOTICE, style="dim")


def seen(
    run: Run,
    images: Annotated[Path, typer.Argument(help="Folder of public images.", show_default=False)],
    false_alarms: Annotated[
        float, typer.Option(help="Share of pictures of their kind that may be called unlike.")
    ] = 0.05,
) -> None:
    """Take statistics of what public images look like to a run's model, which tell pictures that are unlike all of it.

    They go with the model wherever it goes, so never name a clinic's own images.
    """
    from melfed.server.cli.options import Bar
    from melfed.server.results.card import write_card
    from melfed.server.results.evaluate import load_model
    from melfed.server.results.seen import write_seen
    from melfed.server.runs.folder import RunFolder

    folder = RunFolder.open(path_of_run(run))
    with Bar("looking at images") as progress:
        found = write_seen(folder, load_model(folder)[1], images, false_alarms, progress)
    if (folder.path / "summary.json").exists():  # a head that was solved anew has none, and no card
        write_card(folder)
        folder.write_sums()
    output.print(f"{folder.path}: statistics {found.in_words()}", soft_wrap=True)


def page(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder; it must not exist.", show_default=False)],
    int8: Int8Option = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The archive of onnxruntime-web, where npm is not to be asked.", show_default=False
        ),
    ] = None,
    clinic: ClinicOption = None,
) -> None:
    """Write a page for a phone: it runs a finished run's model in the browser, offline; no picture leaves it."""
    from melfed.server.phone.page import write_page
    from melfed.server.phone.runtime import runtime_files

    model, facts = _model_of(run, clinic)
    write_page(out, model, facts, runtime_files(runtime), int8)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    output.print(f"{out}: {facts.name}, {size:.0f} MB; serve it by HTTPS, or try it:", soft_wrap=True)
    output.print(f"  python -m http.server --bind 127.0.0.1 --directory {out} 8000", soft_wrap=True)
    errors.print(NOTICE, style="dim")


def _model_of(run: Path, clinic: str | None) -> "tuple[Classifier, ModelFacts]":
    from melfed.server.results.evaluate import load_model
    from melfed.server.results.facts import facts_of
    from melfed.server.runs.folder import RunFolder

    folder = RunFolder.open(path_of_run(run))
    return load_model(folder, clinic)[1], facts_of(folder, clinic)


def deliver(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of a finished run.", show_default=False)],
    clinics: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="To whom.", show_default="those of the run"),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Send a finished run's model to its clinics, or to others that came later; the daemon does it when they are there.

    Each clinic's own policy (policy.models) says whether it takes the model; what each said is in metrics.jsonl.
    """
    from melfed.server.cli.options import own_configuration
    from melfed.server.clinics.registry import read_clinics
    from melfed.server.runs.folder import RunFolder
    from melfed.server.runs.names import run_path
    from melfed.server.runs.request import change_request, read_request
    from melfed.server.runs.state import change_state, read_state

    server = own_configuration(config)
    folder = RunFolder.open(run_path(server, Path(run).name))
    request, state = read_request(folder.path), read_state(folder.path)
    if state is None or state.status != "completed":
        raise RunError(f"{folder.path}: the run has not finished; its clinics get the model when it has")
    known = [record.name for record in read_clinics(server.clinics) if not record.revoked]
    names = tuple(dict.fromkeys(clinics.split(","))) if clinics else tuple(n for n in request.clinics if n in known)
    if unknown := [name for name in names if name not in known]:
        raise RunError(f"{folder.path}: no approved clinic is called {unknown[0]!r}; known: {', '.join(known)}")
    change_request(folder.path, delivers=names)
    change_state(folder.path, wanted=True, status="queued", reason="")
    output.print(f"{folder.path}: the model goes to {', '.join(names)}; see melfed-server status", soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for function in (export, seen, page, deliver):
        app.command()(function)
