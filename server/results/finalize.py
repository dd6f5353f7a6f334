"""What a run writes when its training has finished, simulated or deployed: models, summary, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.study.build import local_names
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import Choice
from melfed.server.report.page import write_report
from melfed.server.results.card import write_card
from melfed.server.results.evaluate import load_model, public_data, save_model, summarise
from melfed.server.results.privacy import summarise_privacy
from melfed.server.results.seen import ShownImages, write_shown
from melfed.server.runs.clinic_rounds import write_clinic_rounds
from melfed.server.runs.counts import Counts, counted, totals
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.soundness import planned_steps, warnings_of
from melfed.server.runs.summary import AT_CLINICS, DataSummary, PublicData, RunSummary


@dataclass(frozen=True)
class Finished:
    """A run whose rounds and final evaluation are done.

    Attributes:
        study: as it was run.
        model: the study's network; the outcome's tensors go into it.
        outcome: models and histograms.
        data: what the run was given.
        used: what the models were trained on, for those who start from one of them.
        seconds: what all of it took.
        device: where models were evaluated.
        choices: what the recipe chose.
        warnings: about privacy, for the report.
        weights_dir: where pretrained weights are looked for.
        shown: of images that show nobody, for statistics of what the model has seen; None: its images are patients'.
    """

    study: StudyProtocol
    model: Classifier
    outcome: Outcome
    data: DataSummary
    used: PublicData
    seconds: float
    device: str
    choices: Sequence[Choice] = ()
    warnings: Sequence[str] = ()
    weights_dir: Path | None = None
    shown: ShownImages | None = None


def finish(folder: RunFolder, done: Finished) -> RunSummary:
    """Write the models, `summary.json`, `report.html` and model card of a run, and return the summary.

    Raises:
        StorageError: something cannot be written.
        RunError, StudyError: as `melfed.server.results.privacy.summarise_privacy`.
        WeightsError: the pretrained weights are gone.
    """
    _save_models(folder, done)
    study, outcome = done.study, done.outcome
    summary = summarise(study, folder, done.data, outcome, done.seconds, done.device)
    trained = outcome.chosen[""].trained if "" in outcome.chosen else None
    privacy = summarise_privacy(study, outcome.accounts, outcome.clinics, done.choices, done.warnings, trained)
    steps = planned_steps(study, outcome.clinics, outcome.chosen)
    told = {"steps": steps, "warnings": warnings_of(study, summary.rounds, steps)}
    public = public_data(study, done.weights_dir)
    summary = summary.model_copy(update={"privacy": privacy, "public": public, **told})
    folder.write_outcome(outcome)
    folder.write_summary(summary)
    if done.shown is not None:
        write_shown(folder, load_model(folder)[1], done.shown)
    write_report(folder)
    write_card(folder)
    write_clinic_rounds(folder)
    folder.write_sums()
    return summary


def _save_models(folder: RunFolder, done: Finished) -> None:
    start, local = trainable_tensors(done.model), local_names(done.study, done.model)
    start = {name: start[name] for name in local}
    for name, tensors in done.outcome.models.items():
        # What stays at each clinic is in the model of all as it was at the start.
        load_trainable(done.model, {**start, **tensors})
        # The name of a source may hold a slash.
        path = folder.path / f"model-{quote(name, safe=' ,()')}.safetensors" if name else folder.model
        save_model(path, done.model, done.study, done.used)


def told_data(study: StudyProtocol, clinics: Mapping[str, Counts]) -> DataSummary:
    """Return what is known of a deployed run's data: the counts that its clinics told.

    Args:
        study: what was run; in a private study the counts are of units, with noise.
        clinics: counts by clinic, as `Outcome.clinics`.
    """
    every = list(clinics.values())
    sums = totals(study, every)
    synthetic = tuple(name for name, counts in clinics.items() if counts.synthetic)
    return DataSummary(
        folder=f"{len(clinics)} clinic{'' if len(clinics) == 1 else 's'}",
        layout=AT_CLINICS,
        images=sums.images,
        melanomas=sums.melanomas,
        groups=sums.patients,
        groups_by=study.privacy.unit if study.privacy else "group",
        synthetic=bool(synthetic),
        synthetic_clinics=synthetic if len(synthetic) < len(clinics) else (),
        left_out=(),
        counted=counted(study, every),
    )
