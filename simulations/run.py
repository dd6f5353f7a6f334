"""One simulated run from study and data folder to a finished run folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TypedDict, Unpack

from melfed.client.config.policy import ClinicPolicy
from melfed.client.privacy.accounting import delta_warning
from melfed.client.privacy.plan import plan_of
from melfed.client.privacy.units import privacy_units
from melfed.common.errors import RunError
from melfed.common.files import write_text
from melfed.common.model.inference import pick_device
from melfed.common.moments.expected import require_useful
from melfed.common.study.build import build_study_classifier, located, seal, shared_tensors
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import Choice, resolve
from melfed.server.aggregation.robust import clinics_needed
from melfed.server.federation.observer import Observer
from melfed.server.results.finalize import Finished, finish
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import PublicData, RunSummary
from melfed.server.trackers.tracking import Tracking
from melfed.simulations.baselines import Baseline
from melfed.simulations.engine.engine import Engine, check_resources, choose, federate, gpus_of
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.longer import check_longer, go_on_longer
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.personal_models import personal_models
from melfed.simulations.predictions import NAME, write_predictions
from melfed.simulations.shown import shown_images
from melfed.simulations.starts import of_starts


def simulate(
    study: StudyProtocol,
    virtual: VirtualClinics,
    out: Path,
    observer: Observer,
    **options: "Unpack[Options]",
) -> RunSummary:
    """Run a study over virtual clinics and write its folder; see `run_study`."""
    return run_study(study, virtual, out, observer, **options)[1]


class Options(TypedDict, total=False):
    """How a study is run.

    Attributes:
        resume: go on from the last checkpoint, with a longer study where that is sound (`melfed.simulations.longer`).
        fresh: the folder's name was chosen by nobody: where it is taken, take one like it.
        weights_dir: where pretrained weights are looked for first.
        engine: what runs a federated study; None: "auto" (`melfed.simulations.engine.engine.choose`).
        ray_address: of a running Ray cluster.
        policies: by clinic; "*" stands for all clinics without one of their own.
        choices: what `privacy.recipe: auto` chose, for the report.
        predictions: write the score of every test image; None: where the study has no privacy.
        alone: False where other runs share the machine, as in a comparison: the clinics take turns in one process, and
            no statistics are taken of what the model has seen.
    """

    resume: bool
    fresh: bool
    weights_dir: Path | None
    engine: Engine | None
    ray_address: str | None
    policies: Mapping[str, ClinicPolicy] | None
    choices: Sequence[Choice]
    predictions: bool | None
    alone: bool


def run_study(
    study: StudyProtocol,
    virtual: VirtualClinics,
    out: Path,
    observer: Observer,
    **options: Unpack[Options],
) -> tuple[RunFolder, RunSummary]:
    """Run a study over virtual clinics and write its folder; return that and the summary.

    Args:
        study: what to run; its `federation.mode` chooses federation or a baseline.
        virtual: the clinics.
        out: the run folder: new, or with `resume` the one of an interrupted run of the same study and data.
        observer: is told how the run goes.
        options: see `Options`.

    Raises:
        RunError: the folder exists, or with `resume` is of another study or data, or finished already.
        WeightsError: the pretrained weights are missing or others than the study says.
        QuorumError, StorageError, StudyError: as `melfed.simulations.engine.engine.federate`.
    """
    started = monotonic()
    ray_address, weights_dir = options.get("ray_address"), options.get("weights_dir")
    federated, clinics = study.federation.with_clinics, len(virtual.clinics)
    alone = options.get("alone", True)
    engine = choose(options.get("engine") or "auto", study, clinics, ray_address, alone=alone)
    if federated:
        check_resources(study, ray_address)
        clinics_needed(study.federation, clinics)
    study, chosen = resolve(study)
    choices, warnings = options.get("choices") or chosen, privacy_warnings(study, virtual)
    study = seal(study, weights_dir)
    require_useful(study, len(virtual.clinics), weights_dir)
    model = build_study_classifier(study, weights_dir)
    resume, fresh = options.get("resume", False), options.get("fresh", False)
    folder = _reopen(out, study, virtual) if resume else _create(out, study, virtual, fresh)
    if isinstance(observer, Tracking):
        observer.follow(folder)
    gpus = (gpus_of(study, clinics, ray_address) if engine == "ray" else 0) if federated else study.resources.gpus != 0
    device = pick_device(None if gpus else "cpu")
    if federated:
        policies = options.get("policies") or {}
        plan = plan_of(study) if study.privacy is not None else None
        located_study = located(study, weights_dir)
        simulation = Simulation(located_study, virtual.clinics, folder.ledgers, policies, plan, alone)
        outcome = federate(simulation, folder, shared_tensors(study, model), observer, engine, ray_address)
        own = personal_models(simulation, model, outcome.models[""], folder.identity, weights_dir)
        outcome = replace(outcome, models={**outcome.models, **own})
    else:
        baseline = Baseline(study, virtual.clinics, model, device)
        outcome, model = baseline.train(folder, observer), baseline.finished()
    predictions = options.get("predictions")
    if study.privacy is None if predictions is None else predictions:
        write_predictions(folder.path / NAME, study, virtual.clinics, model, outcome.models, device)
    sources = tuple(sorted({record.source for record in virtual.records}))
    used = PublicData(study=study.name, digest=study.digest, images=len(virtual.records), sources=sources)
    seconds = monotonic() - started
    done = Finished(
        study,
        model,
        outcome,
        virtual.summary(),
        used,
        seconds,
        str(device),
        choices,
        warnings,
        weights_dir,
        shown_images(study, virtual) if alone else None,
    )
    if federated and (rungs := of_starts(folder, study, virtual.clinics, weights_dir)):
        folder.write_ladder(rungs)
    return folder, finish(folder, done)


def _create(out: Path, study: StudyProtocol, virtual: VirtualClinics, fresh: bool) -> RunFolder:
    folder = RunFolder.create(out, study, fresh=fresh)
    write_text(folder.partition, _partition_text(virtual))
    return folder


def _reopen(out: Path, study: StudyProtocol, virtual: VirtualClinics) -> RunFolder:
    folder = RunFolder.open(out)
    same = folder.study().digest == study.digest
    if same and (folder.path / "summary.json").exists():
        more = "" if study.privacy else "; for more rounds, add --set federation.rounds=N"
        raise RunError(f"{out}: the run has finished already; its report is {folder.report}{more}")
    if not same:
        check_longer(folder, study)
    partition = folder.partition
    if not partition.exists():
        # The run was killed while its folder was made.
        write_text(partition, _partition_text(virtual))
    if partition.read_text(encoding="utf-8") != _partition_text(virtual):
        raise RunError(f"{out}: the data folder gives other clinics than when the run began; resume with the same data")
    if not same:
        go_on_longer(folder, study)
    return folder


def _partition_text(virtual: VirtualClinics) -> str:
    """Return which image is in which part of which clinic, as JSON."""
    content = {
        split.name: {
            part: [virtual.records[i].image for i in getattr(split, part)] for part in ("train", "validation", "test")
        }
        for split in virtual.splits
    }
    return json.dumps(content, indent=1) + "\n"


def privacy_warnings(study: StudyProtocol, virtual: VirtualClinics) -> tuple[str, ...]:
    """Check that a study's privacy can be had, before anything is made or trained.

    Returns:
        A line for each clinic that has so few units that δ allows giving one of them away.

    Raises:
        DataError: the study protects units that the data do not name.
        StudyError: no noise is enough for the study's ε.
    """
    if study.privacy is None:
        return ()
    plan_of(study)
    warnings = []
    for clinic in virtual.clinics:
        trained = len(set(privacy_units(clinic.train, study.privacy.unit)))
        if warning := delta_warning(study.privacy.delta, trained):
            warnings.append(f"{clinic.name}: {warning}")
    return tuple(warnings)
