"""The coordinator's command, `melfed-server`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from melfed.common.terminal.console import NOTICE, VersionOption, errors, output, run_app
from melfed.common.terminal.explain_option import ExplainOption, one_to_explain
from melfed.server.cli import children as child_commands
from melfed.server.cli import log as log_commands
from melfed.server.cli import models as model_commands
from melfed.server.cli import one_round as one_round_commands
from melfed.server.cli import report as report_commands
from melfed.server.cli import runs as run_commands
from melfed.server.cli import server as daemon_commands
from melfed.server.cli import watch as watch_commands
from melfed.server.cli.options import Bar, metrics_table, path_of_run

app = typer.Typer(
    name="melfed-server",
    help=f"Federated melanoma classification: the coordinator. {NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Run = Annotated[
    Path, typer.Argument(help="RUN: the run's folder, or, at the server, the run's name.", show_default=False)
]
Clinic = Annotated[
    str | None, typer.Option(help="Whose model, of a local baseline, which has one a clinic.", show_default=False)
]


@app.callback()
def _root(version: VersionOption = False) -> None:
    """Keep the commands as sub-commands."""


@app.command()
def evaluate(
    run: Run,
    data: Annotated[Path, typer.Option(help="Folder of labelled images.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the test object as JSON.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Where decoded images are kept.", show_default=False)] = None,
    diagnoses: Annotated[
        list[str], typer.Option("--diagnosis", metavar="WORD=CODE", help="What a word in the tables means.")
    ] = [],  # noqa: B006 (typer copies it)
    shared_ids: Annotated[
        bool, typer.Option("--shared-ids", help="Equal ids of patients in several sources are one person's.")
    ] = False,
    clinic: Clinic = None,
    links: Annotated[
        str,
        typer.Option(
            metavar="inside|own|any",
            help="Symbolic links of the folder that are followed: own: within its file system; any: out of it too.",
        ),
    ] = "inside",
) -> None:
    """Score a run's final model on every image of a labelled folder."""
    from melfed.common.data.images.store import default_cache
    from melfed.common.data.read_options import read_options
    from melfed.server.results.evaluate import evaluate_run

    options = read_options(diagnoses, shared_ids, links=links)
    with Bar("decoding and scoring") as progress:
        evaluation = evaluate_run(path_of_run(run), data, cache or default_cache(), progress, options, clinic)
    for item in evaluation.left_out:
        errors.print(f"left out {item.image}: {item.reason}", markup=False)
    if evaluation.trained_on:
        warning = f"warning: {evaluation.trained_on} of the images have names of images that the run was trained on"
        errors.print(f"{warning}; their scores flatter the model", style="yellow")
    if as_json:
        sys.stdout.write(evaluation.metrics.model_dump_json(indent=2) + "\n")
        return
    output.print(metrics_table(evaluation.metrics, "group"))
    errors.print(NOTICE, style="dim")


@app.command()
def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print a JSON object an image: image, logit, probability, calibrated, unlike, problem."
        ),
    ] = False,
    clinic: Clinic = None,
    explain: ExplainOption = None,
) -> None:
    """Print the probability of melanoma for each image, a line each: probability, tab, file."""
    from melfed.common.terminal.predictions import tell_predictions
    from melfed.server.results.evaluate import explain_image
    from melfed.server.results.evaluate import predict as predict_images

    one_to_explain(images, explain)
    found = predict_images(path_of_run(run), images, clinic)
    if explain is not None and found[0].probability is not None:
        explain_image(path_of_run(run), images[0], explain, clinic)
    tell_predictions(found, as_json, clinic)


for group in (
    daemon_commands,
    run_commands,
    one_round_commands,
    model_commands,
    report_commands,
    log_commands,
    watch_commands,
    child_commands,
):
    group.add_to(app)


def main() -> None:
    """Entry point of `melfed-server`."""
    run_app(app)


if __name__ == "__main__":
    main()
