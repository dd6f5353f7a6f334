"""The researcher's command, `melfed-sim`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from melfed.common.errors import AuditError, StudyError
from melfed.common.terminal.console import NOTICE, JsonOption, VersionOption, errors, output, run_app
from melfed.server.cli.options import INTERVAL_WIDTH, Bar, metrics_cells
from melfed.simulations.cli.compare import compare
from melfed.simulations.cli.options import (
    Cache,
    Classes,
    Data,
    Diagnoses,
    Links,
    Override,
    Seed,
    SharedIds,
    Study,
    WeightsDir,
)

if TYPE_CHECKING:
    from melfed.common.study.protocol import StudyProtocol
    from melfed.server.runs.summary import RunSummary

app = typer.Typer(
    name="melfed-sim",
    help=f"Federated melanoma classification: local simulation. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(version: VersionOption = False) -> None:
    """Keep the commands as sub-commands."""


@app.command()
def run(
    study: Study,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make.", show_default="runs/NAME-TIME")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Interrupted run folder to go on with.", show_default=False)
    ] = None,
    overrides: Override = [],  # noqa: B006 (typer copies it)
    seed: Seed = None,
    weights_dir: WeightsDir = None,
    cache: Cache = None,
    engine: Annotated[
        Literal["auto", "local", "ray"],
        typer.Option(
            help="What runs the clinics; auto: ray for a cluster or to share GPUs, else this machine's cores."
        ),
    ] = "auto",
    ray_address: Annotated[str | None, typer.Option(help="Address of a Ray cluster.", show_default=False)] = None,
    policies: Annotated[
        list[str],
        typer.Option("--policy", metavar="[CLINIC=]FILE", help="A clinic.yaml that all clinics, or one, go by."),
    ] = [],  # noqa: B006 (typer copies it)
    diagnoses: Diagnoses = [],  # noqa: B006 (typer copies it)
    shared_ids: SharedIds = False,
    classes: Classes = None,
    links: Links = "inside",
    predictions: Annotated[
        bool | None,
        typer.Option(
            "--predictions/--no-predictions",
            help="Write the score of each test image.",
            show_default="yes, but not for a private study",
        ),
    ] = None,
    trackers: Annotated[
        list[str],
        typer.Option(
            "--tracker",
            metavar="tensorboard|mlflow|wandb",
            help="Tell it each round's pooled numbers; may be given several times.",
        ),
    ] = [],  # noqa: B006 (typer copies it)
) -> None:
    """Train a study over virtual clinics and write a run folder with a report."""
    from melfed.common.data.read_options import read_options
    from melfed.simulations.api.simulate import simulate

    if resume and out:
        raise StudyError("--out and --resume exclude each other; --resume names the folder to go on with")
    done = simulate(
        _read(study, overrides, seed),
        data,
        out=resume or out,
        resume=resume is not None,
        weights_dir=weights_dir,
        cache=cache,
        engine=engine,
        ray_address=ray_address,
        policies=_policies(policies),
        options=read_options(diagnoses, shared_ids, classes, links),
        predictions=predictions,
        trackers=trackers,
    )
    _print_summary(done.summary, done.path)
    output.print(f"report: {done.report}", soft_wrap=True, markup=False)


app.command()(compare)


@app.command()
def ladder(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished private run.", show_default=False)],
    data: Data = None,
    ways: Annotated[
        list[str], typer.Option("--way", help="one_round, rounds, no_privacy.", show_default="all of them")
    ] = [],  # noqa: B006 (typer copies it)
    weights_dir: WeightsDir = None,
    cache: Cache = None,
    diagnoses: Diagnoses = [],  # noqa: B006 (typer copies it)
    shared_ids: SharedIds = False,
    classes: Classes = None,
    links: Links = "inside",
) -> None:
    """Measure other ways from a private run's public start to a model, for its report: each is a run of its own."""
    from melfed.common.data.read_options import read_options
    from melfed.server.report.words import spoken
    from melfed.server.runs.folder import RunFolder
    from melfed.simulations.api.clinics import virtual_clinics
    from melfed.simulations.api.progress import RunProgress
    from melfed.simulations.ladder import MEASURED, measure

    folder = RunFolder.open(run)
    study = folder.study()
    if unknown := sorted(set(ways) - set(MEASURED)):
        raise StudyError(f"--way {unknown[0]}: known are {', '.join(MEASURED)}")
    virtual = virtual_clinics(study, data, cache, read_options(diagnoses, shared_ids, classes, links))
    images = {clinic.name: len(clinic.train) for clinic in virtual.clinics}
    rungs = folder.ladder()
    for name in MEASURED:
        if name in (ways or MEASURED):
            with RunProgress(images) as observer:
                rungs = tuple(measure(folder, virtual, [name], observer, weights_dir))
    for rung in rungs:
        output.print(f"{rung.name}: AUROC {spoken(rung.auroc)}", soft_wrap=True, markup=False)
    output.print(f"report: {folder.report}", soft_wrap=True, markup=False)


@app.command()
def partition(
    study: Study,
    data: Data = None,
    as_json: JsonOption = False,
    overrides: Override = [],  # noqa: B006 (typer copies it)
    seed: Seed = None,
    cache: Cache = None,
    diagnoses: Diagnoses = [],  # noqa: B006 (typer copies it)
    shared_ids: SharedIds = False,
    classes: Classes = None,
    links: Links = "inside",
) -> None:
    """Show the virtual clinics that a study would make, without training."""
    from rich.table import Table

    from melfed.common.data.read_options import read_options
    from melfed.common.data.records import group_kind
    from melfed.simulations.api.clinics import virtual_clinics
    from melfed.simulations.partition.partition import describe

    options = read_options(diagnoses, shared_ids, classes, links)
    virtual = virtual_clinics(_read(study, overrides, seed), data, cache, options)
    clinics = describe(virtual.records, virtual.splits)
    if as_json:
        sys.stdout.write(json.dumps([clinic.model_dump() for clinic in clinics], indent=2) + "\n")
        return
    table = Table(title=f"groups / images / melanomas; a group is: {group_kind(virtual.records)}")
    for column in ("clinic", "train", "validation", "test"):
        table.add_column(column, justify="left" if column == "clinic" else "right")
    for clinic in clinics:
        parts = (clinic.train, clinic.validation, clinic.test)
        table.add_row(clinic.name, *(f"{part.groups} / {part.images} / {part.melanomas}" for part in parts))
    output.print(table)


@app.command()
def audit(
    study: Study,
    data: Data = None,
    canaries: Annotated[
        int | None,
        typer.Option(help="How many canary patients, each in by a fair coin.", show_default="500 to 1000"),
    ] = None,
    as_json: JsonOption = False,
    overrides: Override = [],  # noqa: B006 (typer copies it)
    seed: Annotated[
        int | None,
        typer.Option(help="Replaces the study's seed and fixes the coins, never the noise.", show_default=False),
    ] = None,
    weights_dir: WeightsDir = None,
    cache: Cache = None,
    diagnoses: Diagnoses = [],  # noqa: B006 (typer copies it)
    shared_ids: SharedIds = False,
    classes: Classes = None,
    links: Links = "inside",
) -> None:
    """Test a private study's ε at the door of a clinic's worker, as a hostile coordinator would.

    Two worlds: a clinic with and without one patient, told apart by anything that is answered. One run: many canary
    patients (arXiv 2305.08846). Leaves with code 12 where a lower bound exceeds the ε that is claimed.
    """
    from melfed.common.data.read_options import read_options
    from melfed.common.study.recipe import resolve
    from melfed.simulations.api.clinics import virtual_clinics
    from melfed.simulations.api.progress import print_choices
    from melfed.simulations.audit.report import CONFIDENCE, audit_study, audit_tables

    protocol, choices = resolve(_read(study, overrides, seed))
    virtual = virtual_clinics(protocol, data, cache, read_options(diagnoses, shared_ids, classes, links))
    print_choices(choices)
    with Bar("rounds with canaries") as rounds, Bar("trials of two worlds") as trials:
        found = audit_study(
            protocol,
            virtual.clinics[0],
            canaries=canaries,
            seed=seed,
            weights_dir=weights_dir,
            on_round=rounds,
            on_trial=trials,
        )
    if as_json:
        sys.stdout.write(json.dumps(found.report(), indent=2) + "\n")
    else:
        for table in audit_tables(found):
            output.print(table)
    if found.canaries.blind:
        errors.print(f"warning: {found.canaries.blind}", style="yellow", markup=False)
    if refuted := found.refuted:
        raise AuditError(
            f"study {protocol.name}: patients lose at least ε = {refuted.bound:.2f} ({CONFIDENCE:.0%} confidence), but "
            f"{refuted.claimed:.2f} is claimed; train on no patient's images until the fault is found"
        )


@app.command()
def data(
    folder: Annotated[Path, typer.Argument(help="Folder of labelled images.", show_default=False)],
    as_json: JsonOption = False,
    diagnoses: Diagnoses = [],  # noqa: B006 (typer copies it)
    shared_ids: SharedIds = False,
    classes: Classes = None,
    links: Links = "inside",
) -> None:
    """Show what a folder of images holds, and how its tables were read.

    Leaves with code 4 where diagnoses are not in the vocabulary: no study can be run until each is mapped.
    """
    from melfed.common.data.decisions import UnknownWords
    from melfed.common.data.inventory import inspect
    from melfed.common.data.read_options import read_options
    from melfed.simulations.cli.inventory_table import inventory_tables

    with Bar("reading images") as progress:
        inventory = inspect(folder, progress, read_options(diagnoses, shared_ids, classes, links))
    if as_json:
        sys.stdout.write(inventory.model_dump_json(indent=2) + "\n")
    else:
        for table in inventory_tables(inventory):
            output.print(table)
    if words := inventory.understood.unknown_words:
        raise UnknownWords(words)


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.", show_default=False)],
    clinics: Annotated[int, typer.Option(min=1, max=100, help="How many clinics, each with its own camera.")] = 3,
    images: Annotated[int, typer.Option(help="How many images, of all clinics together.")] = 600,
    size: Annotated[int, typer.Option(help="Side of an image, pixels.")] = 96,
    seed: Annotated[int, typer.Option(help="Other numbers give other lesions.")] = 0,
) -> None:
    """Render a data folder of synthetic lesions, to try melfed without patients.

    The column `source` of its table tells the clinics apart (phantom_north and so on): `data.sources` in a clinic.yaml
    takes one of them.
    """
    from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom

    spec = PhantomSpec(clinics, images, size=size, seed=seed)
    with Bar("rendering synthetic lesions") as progress:
        write_phantom(folder, spec, progress)
    sources = ", ".join(f"phantom_{name}" for name in spec.names)
    output.print(f"{folder}: {images} synthetic images of {sources}", soft_wrap=True)


@app.command()
def keys() -> None:
    """Show every key of a study with its default and what is allowed."""
    from rich.table import Table

    from melfed.common.study.file import documented_keys

    table = Table(show_lines=False)
    for column in ("key", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for key, default, meaning in documented_keys():
        table.add_row(key, default, meaning)
    output.print(table)


def _read(study: Path, overrides: list[str], seed: int | None) -> "StudyProtocol":
    from melfed.common.study.file import read_study

    return read_study(study, overrides, seed)


def _policies(options: list[str]) -> dict[str, Path]:
    """Return the files of `[CLINIC=]FILE` options by clinic; "*" stands for all without a policy of their own."""
    parts = [option.rpartition("=") for option in options]
    return {clinic if separator else "*": Path(path) for clinic, separator, path in parts}


def _print_summary(summary: "RunSummary", folder: Path) -> None:
    """Print one row a clinic, and one for all pooled, and of a private study what it protects and spent."""
    from melfed.server.cli.run_table import notes, summary_table
    from melfed.server.report.privacy_words import terminal_line

    output.print(summary_table(summary))
    for line in notes(summary):
        output.print(line, soft_wrap=True)
    if summary.mode == "local":
        output.print(_everywhere(summary))
    if summary.privacy:
        output.print(terminal_line(summary.privacy, folder / "ledgers"), soft_wrap=True)
    errors.print(NOTICE, style="dim")


def _everywhere(summary: "RunSummary") -> object:
    from rich.table import Table

    table = Table(title="each clinic's own model on the test images of all clinics")
    table.add_column("clinic", overflow="fold")
    for column in ("AUROC", "AUPRC"):
        table.add_column(column, justify="right", min_width=INTERVAL_WIDTH)
    for clinic in summary.clinics:
        if clinic.everywhere is not None:
            table.add_row(clinic.name, *metrics_cells(clinic.everywhere))
    return table


def main() -> None:
    """Entry point of `melfed-sim`."""
    run_app(app)


if __name__ == "__main__":
    main()
