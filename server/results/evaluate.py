"""From a finished run to its summary, and from a run's model to scores of new images."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from pydantic import ValidationError

from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore, LeftOut
from melfed.common.data.records import read_table
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import DataError, RunError, WeightsError
from melfed.common.export.explanation import explain
from melfed.common.export.predictions import Prediction, predictions
from melfed.common.metrics.calibration_map import Calibration
from melfed.common.metrics.exact import EvaluationMetrics, scored_metrics
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import histogram_from_lists, pooled
from melfed.common.model.classifier import Classifier, saved_classifier
from melfed.common.model.inference import pick_device, score
from melfed.common.model.weights import run_metadata
from melfed.common.progress import Progress
from melfed.common.study.build import study_weights
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors, save_tensors
from melfed.server.results.calibration import summarise_calibration, summarise_points
from melfed.server.results.seen import seen_of
from melfed.server.results.subgroups import summarise_subgroups
from melfed.server.runs.counts import Counts, counted, totals
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import (
    ChosenModel,
    ClinicSummary,
    DataSummary,
    PublicData,
    RoundSummary,
    RunSummary,
    StopSummary,
    StudyIdentity,
)

PACKAGES = ("melfed", "flwr", "torch", "torchvision", "numpy")


def summarise(
    study: StudyProtocol, folder: RunFolder, data: DataSummary, outcome: Outcome, seconds: float, device: str
) -> RunSummary:
    """Return the summary of a finished run; rounds come from the folder's events."""
    clinics = tuple(_clinic(study, name, counts, outcome) for name, counts in outcome.clinics.items())
    rounds = _rounds(folder)
    points = summarise_points(study, outcome)
    return RunSummary(
        melfed=version("melfed"),
        study=StudyIdentity(
            name=study.name,
            digest=study.digest,
            parents=tuple(parent.digest for parent in folder.parents()),
            keys=study.model_dump(mode="json", exclude={"model": {"weights"}}),
        ),
        mode=study.federation.mode,
        data=data,
        test=metrics_of(pooled(outcome.test.values())),
        clinics=clinics,
        privacy=None,
        rounds=rounds,
        stop=_stop(study, outcome),
        calibration=summarise_calibration(study, outcome),
        operating_points=points,
        subgroups=summarise_subgroups(study, outcome, rounds, points),
        seconds=seconds,
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        device=device,
    )


def _stop(study: StudyProtocol, outcome: Outcome) -> StopSummary | None:
    """Return which rounds' models were taken, of a study that stops early."""
    stop = study.federation.stop
    if stop is None or not outcome.chosen:
        return None
    models = tuple(
        ChosenModel(clinic=name or None, round=found.round, value=found.value, trained=found.trained)
        for name, found in outcome.chosen.items()
    )
    return StopSummary(metric=stop.metric, patience=stop.patience, planned=study.federation.rounds, models=models)


def _clinic(study: StudyProtocol, name: str, counts: Counts, outcome: Outcome) -> ClinicSummary:
    sums = totals(study, [counts])
    return ClinicSummary(
        name=name,
        patients=sums.patients,
        images=sums.images,
        melanomas=sums.melanomas,
        counted=counted(study, [counts]),
        test=metrics_of(outcome.test.get(name, ScoreHistogram.empty())),
        everywhere=metrics_of(outcome.everywhere[name]) if name in outcome.everywhere else None,
        local=metrics_of(outcome.local[name]) if name in outcome.local else None,
    )


def _rounds(folder: RunFolder) -> tuple[RoundSummary, ...]:
    """Return the rounds by the folder's events. Raises RunError where one of them lacks what it should hold."""
    try:
        return _rounds_of(folder.events())
    except (KeyError, TypeError, DataError, ValidationError) as error:
        path, what = folder.path / "metrics.jsonl", _told(error) if isinstance(error, ValidationError) else str(error)
        raise RunError(f"{path}: an event is damaged ({what}); bring it back from a backup") from None


def _rounds_of(events: Iterable[Mapping[str, Any]]) -> tuple[RoundSummary, ...]:
    validations: dict[int, EvaluationMetrics] = {}
    rows: list[dict[str, Any]] = []
    left_out = {"event", "clinics"}  # clinic by clinic it is in clinic_rounds.csv
    for event in events:  # one at a time: the histograms of a thousand rounds are gigabytes
        if event["event"] == "validation":
            validations[event["round"]] = _pooled(event)
        elif event["event"] == "round":
            rows.append({k: v for k, v in event.items() if k not in left_out})
    return tuple(RoundSummary.model_validate({**row, "validation": validations.get(row["round"])}) for row in rows)


def _pooled(event: Mapping[str, Any]) -> EvaluationMetrics:
    """Return the metrics of a validation; in a run that an older melfed began, only its histogram tells them."""
    if "pooled" in event:
        return EvaluationMetrics.model_validate(event["pooled"])
    return metrics_of(histogram_from_lists(event["histogram"]))


def save_model(path: Path, model: Classifier, study: StudyProtocol, data: PublicData) -> None:
    """Write all of a model's tensors, with the digest of the study that made it and what it was trained on."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    metadata = {"study": study.digest, "backbone": study.model.backbone, "data": data.model_dump(mode="json")}
    save_tensors(path, tensors, metadata)


def public_data(study: StudyProtocol, weights_dir: Path | None = None) -> PublicData | None:
    """Return what the run trained on whose model is the study's warm start; None where it starts from ImageNet weights.

    Raises:
        WeightsError: the weights are not there, or others than the study says.
    """
    if not study.model.pretrained:
        return None
    file = study_weights(study, weights_dir)
    metadata = run_metadata(file)
    try:
        return PublicData.model_validate(metadata["data"]) if metadata else None
    except ValidationError as error:
        raise WeightsError(
            f"{file.path}: its header is damaged ({_told(error)}); bring it back from a backup"
        ) from None


def _told(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def load_model(folder: RunFolder, clinic: str | None = None) -> tuple[StudyProtocol, Classifier]:
    """Return a run's study and final model.

    Args:
        folder: of the run.
        clinic: whose model, of a `local` baseline.

    Raises:
        RunError: the run has not finished, a clinic is to be named, or none, or the model is damaged or of another
            study.
    """
    study = folder.study()
    path = _model_path(folder, study.federation.mode == "local", clinic)
    arrays, metadata = load_tensors(path)
    if not folder.made_by(str(metadata.get("study")), study):
        raise RunError(f"{path}: made by study {str(metadata.get('study'))[:12]}, not {study.digest[:12]}")
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        return study, saved_classifier(study.model, tensors)
    except WeightsError as error:
        raise RunError(f"{path}: {error}; the file is damaged") from None


def _model_path(folder: RunFolder, local: bool, clinic: str | None) -> Path:
    """Return the file of a run's one model, or of a clinic's: a baseline has the latter alone, some algorithms both."""
    found = folder.models_of_clinics()
    if local and found and clinic not in found:
        which = f"no clinic {clinic!r}" if clinic else "a local baseline has a model a clinic"
        raise RunError(f"{folder.path}: {which}; name one with --clinic: {', '.join(found)}")
    if not local and clinic is not None and clinic not in found:
        known = f"name another with --clinic: {', '.join(found)}" if found else "leave out --clinic"
        what = f"there is no model of clinic {clinic!r}" if found else "the run has one model of all clinics"
        raise RunError(f"{folder.path}: {what}; {known}")
    path = found.get(clinic or "", folder.model)
    if not path.exists():
        raise RunError(f"{folder.path}: the run has not finished (no {path.name}); go on with --resume")
    return path


@dataclass(frozen=True)
class RunEvaluation:
    """A model's metrics on a labelled folder, and what to know about them.

    Attributes:
        metrics: of all usable images.
        left_out: images that could not be used, and rows without an image.
        trained_on: how many of the images bear the name of one that the run was trained on.
    """

    metrics: EvaluationMetrics
    left_out: tuple[LeftOut, ...]
    trained_on: int


def evaluate_run(
    run: Path,
    data: Path,
    cache: Path,
    progress: Progress | None = None,
    options: ReadOptions | None = None,
    clinic: str | None = None,
) -> RunEvaluation:
    """Score a run's final model on every usable image of a labelled folder.

    Args:
        run: a finished run's folder.
        data: the labelled folder.
        cache: where decoded images are kept.
        progress: called with (done, total) images, first while they are decoded and then while they are scored.
        options: what a person says about the folder that its tables do not say.
        clinic: whose model, of a `local` baseline.

    Raises:
        RunError: no finished run there, or none of that clinic.
        DataError: no labelled, usable images there.
    """
    folder = RunFolder.open(run)
    study, model = load_model(folder, clinic)
    table = read_table(data, study.data.positive, options)
    store = ImageStore.build(
        cache,
        root=table.root,
        images=[r.image for r in table.records],
        size=study.data.image_size,
        progress=progress,
        links=options.links if options else "inside",
    )
    images = Images(tuple(record for record in table.records if record.image in store), store)
    if not len(images):
        raise DataError(f"{data}: none of its {len(table.records)} images can be used; see melfed-sim data {data}")
    device = pick_device()

    def scored(done: int) -> None:
        if progress is not None:
            progress(done, len(images))

    scores = score(model.to(device), images, study.data.image_size, device, scored)
    missing = tuple(LeftOut(row, "the table names it, but there is no such image") for row in table.missing)
    known = folder.trained_on()
    return RunEvaluation(
        scored_metrics(scores, images.targets, images.groups),
        images.store.left_out + missing,
        sum(PurePosixPath(record.image).stem in known for record in images.records),
    )


def predict(run: Path, images: Sequence[Path], clinic: str | None = None) -> list[Prediction]:
    """Return a score for each image file.

    Args:
        run: a finished run's folder.
        images: files.
        clinic: whose own model, of a run that has such; its probabilities are never calibrated.

    Raises:
        RunError: no finished run there, none of that clinic, or its model needs age, sex and site, which a picture does
            not carry.
    """
    folder = RunFolder.open(run)
    study, model = load_model(folder, clinic)
    if study.model.metadata:
        raise RunError(f"{run}: its model needs age, sex and site; use melfed-server evaluate with a table")
    # No map is a clinic's own model's: nothing but pooled validation scores are known, and where they are of several
    # models there is no map at all.
    calibration = _calibration(folder) if clinic is None else None
    return list(predictions(model, study.data.image_size, images, calibration, seen_of(folder, clinic)))


def explain_image(run: Path, image: Path, out: Path, clinic: str | None = None) -> None:
    """Write a PNG of what moved an image's logit up; see `melfed.common.export.explanation.explain`."""
    study, model = load_model(RunFolder.open(run), clinic)
    explain(model, image, study.data.image_size, out)


def _calibration(folder: RunFolder) -> Calibration | None:
    """Return the map of a run's one model; None where there is none, as beside a head that was solved anew."""
    if not (folder.path / "summary.json").exists():
        return None
    known = folder.summary().calibration
    return None if known is None else known.fitted
