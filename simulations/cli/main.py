"""The researcher's command, `melfed-sim`."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from melfed.common.errors import AuditError, StudyError
from melfed.common.terminal.console import NOTICE, JsonOption, VersionOption, errors, output, run_app
from melfed.server.cli.options import INTERVAL_WIDTH, Bar, metrics_cells

if TYPE_CHECKING:
    from melfed.client.config.policy import ClinicPolicy
    from melfed.common.data.tables.rows import ReadOptions
    from melfed.common.study.protocol import StudyProtocol
    from melfed.server.runs.summary import RunSummary
    from melfed.simulations.partition.virtual_clinics import VirtualClinics

app = typer.Typer(
    name="melfed-sim",
    help=f"Federated melanoma classification: local simulation. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Study = Annotated[Path, typer.Argument(help="Study protocol, a YAML file.", show_default=False)]
Data = Annotated[
    Path | None, typer.Option(help="Folder of labelled images; not for a study with data.phantom.", show_default=False)
]
Override = Annotated[list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a key of the study.")]
Seed = Annotated[int | None, typer.Option(help="Replaces the study's seed.", show_default=False)]
Cache = Annotated[Path | None, typer.Option(help="Where decoded images are kept.", show_default=False)]
Diagnoses = Annotated[
    list[str],
    typer.Option("--diagnosis", metavar="WORD=CODE", help="What a word in the tables means; see docs/vocabulary.md."),
]
SharedIds = Annotated[
    bool, typer.Option("--shared-ids", help="Equal ids of patients in several sources are one person's.")
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER=CODE,...", help="What the images of folders show where no table says it.", show_default=False
    ),
]
Links = Annotated[
    str,
    typer.Option(
        metavar="inside|own|any",
        help="Symbolic links of the folder that are followed: own: within its file system; any: out of it too.",
    ),
]


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
    weights_dir: Annotated[
        Path | None, typer.Option(envvar="MELFED_WEIGHTS", help="Folder of pretrained weights.", show_default=False)
    ] = None,
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
) -> None:
    """Train a study over virtual clinics and write a run folder with a report."""
    from melfed.common.data.read_options import read_options
    from melfed.common.study.in_force import idle_values
    from melfed.common.study.recipe import resolve
    from melfed.simulations.cli.progress import RunProgress, print_choices
    from melfed.simulations.engine.fork_server import prepare

    protocol, choices = resolve(_read(study, overrides, seed))
    folder, fresh = resume or out, False
    if resume and out:
        raise StudyError("--out and --resume exclude each other; --resume names the folder to go on with")
    if folder is None:
        fresh = True
        folder = Path("runs") / f"{protocol.name}-{datetime.now(UTC).astimezone():%Y%m%d-%H%M%S}"
    if policies and not protocol.federation.with_clinics:
        raise StudyError(f"--policy: no clinic decides in a {protocol.federation.mode} baseline; leave it out")
    if engine != "ray" and not ray_address and protocol.federation.with_clinics:
        prepare()  # its imports go on while the images are read
    virtual = _divide(protocol, data, cache, read_options(diagnoses, shared_ids, classes, links))
    of_clinic = _policies(policies, [split.name for split in virtual.splits])
    print_choices(choices)
    if idle := idle_values(protocol):
        named = ", ".join(f"{key} ({value})" for key, value in idle.items())
        errors.print(f"note: without effect in this run: {named}", style="yellow")
    from melfed.simulations.run import privacy_warnings, run_study

    for warning in privacy_warnings(protocol, virtual):
        errors.print(f"warning: {warning}", style="yellow")
    images = {clinic.name: _passes(protocol) * len(clinic.train) for clinic in virtual.clinics}
    with RunProgress(images) as observer:
        made, summary = run_study(
            protocol,
            virtual,
            folder,
            observer,
            resume=resume is not None,
            fresh=fresh,
            weights_dir=weights_dir,
            engine=engine,
            ray_address=ray_address,
            policies=of_clinic,
            choices=choices,
            predictions=predictions,
        )
    _print_summary(summary, made.path)
    output.print(f"report: {made.report}", soft_wrap=True, markup=False)


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
    from melfed.simulations.partition.partition import describe

    virtual = _divide(_read(study, overrides, seed), data, cache, read_options(diagnoses, shared_ids, classes, links))
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
    weights_dir: Annotated[
        Path | None, typer.Option(envvar="MELFED_WEIGHTS", help="Folder of pretrained weights.", show_default=False)
    ] = None,
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
    from melfed.simulations.audit.report import CONFIDENCE, audit_study, audit_tables
    from melfed.simulations.cli.progress import print_choices

    protocol, choices = resolve(_read(study, overrides, seed))
    virtual = _divide(protocol, data, cache, read_options(diagnoses, shared_ids, classes, links))
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


def _policies(options: list[str], clinics: list[str]) -> "dict[str, ClinicPolicy]":
    """Read `[CLINIC=]FILE` options; "*" stands for all clinics without a policy of their own."""
    from melfed.client.config.clinic import read_policy

    policies = {}
    for option in options:
        clinic, separator, path = option.rpartition("=")
        if separator and clinic not in clinics:
            raise StudyError(f"--policy {option}: no clinic {clinic!r}; the clinics are {', '.join(clinics)}")
        policies[clinic if separator else "*"] = read_policy(Path(path))
    return policies


def _passes(study: "StudyProtocol") -> float:
    """Return how often a round sees each image, about: progress bars are drawn by it."""
    if study.privacy is None:
        return study.training.local_epochs
    return study.privacy.steps * study.privacy.sampling_rate * study.privacy.views


def _divide(
    study: "StudyProtocol", folder: Path | None, cache: Path | None, options: "ReadOptions"
) -> "VirtualClinics":
    """Find or render the images, decode them, and divide them into clinics."""
    from melfed.common.data.images.duplicates import count_duplicates
    from melfed.common.data.images.store import default_cache
    from melfed.simulations.partition.virtual_clinics import divide, phantom_folder

    cache = cache or default_cache()
    if folder is None:
        if study.data.phantom is None:
            raise StudyError(f"study {study.name} needs images: add --data DIR")
        errors.print("All images are synthetic: the numbers say nothing about real patients.", style="yellow")
        with Bar("rendering synthetic lesions") as progress:
            folder = phantom_folder(study, study.data.phantom, cache, progress)
    elif study.data.phantom is not None:
        raise StudyError("the study renders its own images; leave out --data, or add --set data.phantom=null")
    with Bar("decoding images") as progress:
        virtual = divide(study, folder, cache, progress, options)
    if virtual.left_out:
        first = virtual.left_out[0]
        errors.print(
            f"{len(virtual.left_out)} images are left out, for example {first.image}: {first.reason}", markup=False
        )
    if words := count_duplicates(virtual.records, virtual.duplicates).words():
        kept = "kept together" if study.privacy is None else "in whatever parts their patients are"
        errors.print(f"{words}; {kept}; `melfed-sim data` names them", markup=False)
    return virtual


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
