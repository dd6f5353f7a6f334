"""`melfed-client model`: the models that the coordinator has sent, and what the clinic does with them."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from melfed.client.cli.options import ConfigOption, clinic
from melfed.client.cli.study import ByOption, user
from melfed.common.errors import DataError
from melfed.common.terminal.console import JsonOption, errors, output
from melfed.common.terminal.explain_option import ExplainOption, one_to_explain
from melfed.common.terminal.export_options import FormatOption, Int8Option, OutOption, tell_exported

if TYPE_CHECKING:
    from melfed.client.config.clinic import ClinicConfig
    from melfed.client.models.store import KeptModel, ModelStore
    from melfed.common.metrics.exact import EvaluationMetrics, Interval

model_app = typer.Typer(
    name="model", help="The models that the coordinator has sent: kept here, used here; nothing of it leaves."
)

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Its name, or its study's, or how one begins.", show_default=False),
]
PARTS = ("train", "validation", "test")


@model_app.command("list")
def list_models(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the models that are here."""
    models = _store(clinic(config)).all()
    if as_json:
        sys.stdout.write(json.dumps([_told(model) for model in models], indent=2) + "\n")
        return
    for model in models:
        facts = model.facts
        output.print(f"{model.name}  {facts.name}, {facts.backbone}, received {model.received}", soft_wrap=True)
    if not models:
        output.print("no model is here; the coordinator sends one at the end of a run (policy.models)")


@model_app.command()
def show(model: Model, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show what is told of a model: its study, its privacy, what it is for, who signed it."""
    kept = _find(config, model)
    if as_json:
        sys.stdout.write(json.dumps(_told(kept), indent=2) + "\n")
        return
    facts = kept.facts
    rows = {name.replace("_", " "): text for name, text in facts.described().items() if name != "melfed"}
    rows["network"] = f"{facts.backbone}, images of {facts.image_size} × {facts.image_size}"
    rows["run"], rows["received"] = facts.run, kept.received
    rows["signed by"] = f"the coordinator's certificate with SHA-256 {kept.signer}"
    rows["file"] = str(kept.path)
    width = max(map(len, rows))
    for name, text in rows.items():
        output.print(f"{name:<{width}}  {text}", soft_wrap=True, markup=False)


@model_app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    as_json: JsonOption = False,
    explain: ExplainOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the probability of a positive for each image, a line each: probability, tab, file."""
    from melfed.client.models.use import explain as explain_image
    from melfed.client.models.use import predict as predict_images
    from melfed.common.terminal.predictions import tell_predictions

    one_to_explain(images, explain)
    kept = _find(config, model)
    found = predict_images(kept, images)
    if explain is not None and found[0].probability is not None:
        explain_image(kept, images[0], explain)
    tell_predictions(found, as_json)


@model_app.command()
def evaluate(
    model: Model,
    part: Annotated[str, typer.Option(help="Which part of this clinic's images: test, validation or train.")] = "test",
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Score a model on this clinic's own images, exactly; the figures are for the clinic alone, and cost no ε."""
    from melfed.client.models.use import evaluate as evaluate_model

    if part not in PARTS:
        raise DataError(f"--part {part}: known are {', '.join(PARTS)}")
    here = clinic(config)
    metrics = evaluate_model(here, _store(here).find(model), part)  # type: ignore[arg-type]  # one of PARTS
    if as_json:
        sys.stdout.write(metrics.model_dump_json(indent=2) + "\n")
        return
    for line in _lines(metrics):
        output.print(line)
    errors.print("note: exact figures of this clinic's patients; who passes them on tells about these", style="yellow")


@model_app.command("operating-point")
def operating_point_(
    model: Model,
    sensitivity: Annotated[
        float | None, typer.Option(help="Share of melanomas that are to be called so.", show_default=False)
    ] = None,
    specificity: Annotated[
        float | None, typer.Option(help="Share of other images that are not to be.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Choose a threshold of this clinic's own, on its images that the model has not learnt from.

    In a private study the scores are noised and charged to the ledger, once for every point that is asked for later.
    """
    from melfed.client.config.folders import acting_as_owner
    from melfed.client.models.own_scores import own_scores
    from melfed.common.metrics.histogram import sigmoid
    from melfed.common.metrics.operating_point import operating_point
    from melfed.common.study.evaluation_keys import PointSpec

    try:
        asked = PointSpec(sensitivity=sensitivity, specificity=specificity)
    except ValidationError:
        raise typer.BadParameter(
            "give one of both, between 0 and 1", param_hint="--sensitivity, --specificity"
        ) from None
    here, kept = clinic(config), _find(config, model)
    with acting_as_owner(here.worker_state):
        scores, spent = own_scores(here, kept)
    if spent is not None:
        errors.print(
            f"charged to the ledger: ε is {spent:.4f} in all; other points of this model are free", style="yellow"
        )
    point = operating_point(scores, asked.kind, asked.wanted)
    if point.logit is None:
        raise DataError(f"operating point {point.name}: {point.lacking}; ask for less, or use the study's own points")
    calibration = kept.facts.calibration
    threshold = float(sigmoid(point.logit) if calibration is None else calibration.probability(point.logit))
    if as_json:
        sys.stdout.write(
            json.dumps({"name": point.name, "threshold": threshold, **point.validation.model_dump()}) + "\n"
        )
        return
    output.print(f"{point.name}: call a probability of {threshold:.4g} or more a positive; value (95 % interval)")
    output.print(f"sensitivity {_shown(point.validation.sensitivity)}")
    output.print(f"specificity {_shown(point.validation.specificity)}")


@model_app.command()
def export(
    model: Model,
    kind: FormatOption,
    out: OutOption,
    int8: Int8Option = None,
    config: ConfigOption = None,
) -> None:
    """Write a model in an open format, with its study, its ε and what it is for."""
    from melfed.client.models.use import export as export_model

    kept = _find(config, model)
    export_model(kept, kind, out, int8)
    tell_exported(kept.facts, kind, out, int8)


@model_app.command()
def remove(model: Model, by: ByOption = None, config: ConfigOption = None) -> None:
    """Delete a model here."""
    from melfed.common.audit.events import Event
    from melfed.common.audit.log import AuditLog

    here = clinic(config)
    store = _store(here)
    kept = store.find(model)
    store.remove(kept)
    about = {"digest": kept.facts.study, "run": kept.facts.run, "model": kept.name}
    AuditLog(here.audit_log, "cli").record(Event.MODEL_REMOVED, **about, by=by or user())
    output.print(f"removed {kept.name}", soft_wrap=True)


def _store(here: "ClinicConfig") -> "ModelStore":
    from melfed.client.models.store import ModelStore

    return ModelStore(here.models)


def _find(config: Path | None, name: str) -> "KeptModel":
    return _store(clinic(config)).find(name)


def _told(model: "KeptModel") -> dict[str, Any]:
    about = {"name": model.name, "file": str(model.path), "received": model.received, "signer": model.signer}
    return {**about, "facts": model.facts.model_dump(mode="json", exclude={"seen": {"packed"}})}


def _shown(interval: "Interval") -> str:
    if interval.value is None:
        return "undefined"
    return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def _lines(metrics: "EvaluationMetrics") -> list[str]:
    brier = "undefined" if metrics.brier is None else f"{metrics.brier:.4f}"
    return [
        f"{metrics.images} images of {metrics.patients} patients, {metrics.melanomas} melanomas; value (95 % interval)",
        f"AUROC                           {_shown(metrics.auroc)}",
        f"AUPRC                           {_shown(metrics.auprc)}",
        f"sensitivity at 90 % specificity {_shown(metrics.sensitivity_at_90_specificity)}",
        f"sensitivity at 95 % specificity {_shown(metrics.sensitivity_at_95_specificity)}",
        f"Brier score                     {brier}",
    ]
