"""A study's run on virtual clinics, from a folder of images to a finished run: `melfed-sim run`, and notebooks."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from melfed.common.errors import StudyError
from melfed.common.study.in_force import idle_values
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import Choice, resolve
from melfed.simulations.api.study import Study

if TYPE_CHECKING:
    from melfed.client.config.policy import ClinicPolicy
    from melfed.common.data.tables.rows import ReadOptions
    from melfed.server.federation.observer import Observer
    from melfed.server.trackers.tracker import Tracker
    from melfed.simulations.api.run import Run
    from melfed.simulations.partition.virtual_clinics import VirtualClinics


def simulate(
    study: Study | StudyProtocol,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    weights_dir: str | Path | None = None,
    cache: str | Path | None = None,
    engine: Literal["auto", "local", "ray"] = "auto",
    ray_address: str | None = None,
    policies: Mapping[str, Path] | None = None,
    options: "ReadOptions | None" = None,
    predictions: bool | None = None,
    trackers: "Sequence[str | Tracker]" = (),
    quiet: bool = False,
) -> "Run":
    """Train a study over virtual clinics and write a run folder with a report.

    Args:
        study: what is run.
        data: folder of labelled images; None where the study renders its own (`data.phantom`).
        out: run folder to make; None: `runs/NAME-TIME`, in the current folder.
        resume: go on with the interrupted run in `out`.
        weights_dir: folder of pretrained weights.
        cache: where decoded images are kept; None: melfed's own cache.
        engine: what runs the clinics; auto: ray for a cluster or to share GPUs, else this machine's cores.
        ray_address: of a running Ray cluster.
        policies: a clinic.yaml by the clinic that goes by it; "*" stands for all clinics without one of their own.
        options: what a person says about the folder that its tables do not say
            (`melfed.common.data.read_options.read_options`).
        predictions: write the score of each test image; None: where the study has no privacy.
        trackers: who is told each round's pooled numbers: names (tensorboard, mlflow, wandb), or trackers of one's own
            (`melfed.server.trackers.tracker.Tracker`).
        quiet: tell nothing on stderr; else what the recipe chose, warnings and the rounds.

    Returns:
        The finished run.

    Raises:
        MelfedError: in one line, what is wrong, where, and what to do; as the command.

    >>> from tempfile import TemporaryDirectory
    >>> study = Study(
    ...     data={"image_size": 32, "phantom": {"images": 60, "clinics": 2}},
    ...     partition={"minimum_images": 4},
    ...     model={"backbone": "simple_cnn", "pretrained": False},
    ...     federation={"mode": "central", "rounds": 1},
    ... )
    >>> with TemporaryDirectory() as folder:
    ...     run = simulate(study, out=f"{folder}/run", cache=folder, quiet=True)
    >>> run.summary.data.images, len(run.rounds)
    (60, 1)
    """
    from melfed.common.study.build import require_backbone
    from melfed.server.trackers import trackers_of
    from melfed.server.trackers.tracking import Tracking
    from melfed.simulations.api.clinics import virtual_clinics
    from melfed.simulations.api.run import Run
    from melfed.simulations.engine.fork_server import prepare
    from melfed.simulations.run import run_study

    protocol, choices = resolve(study if isinstance(study, StudyProtocol) else study.protocol)
    require_backbone(protocol)
    told = trackers_of(trackers)
    if resume and out is None:
        raise StudyError("resume goes on with the run in out; name its folder")
    if policies and not protocol.federation.with_clinics:
        raise StudyError(f"--policy: no clinic decides in a {protocol.federation.mode} baseline; leave it out")
    if engine != "ray" and not ray_address and protocol.federation.with_clinics:
        prepare()  # its imports go on while the images are read
    virtual = virtual_clinics(protocol, _path(data), _path(cache), options, quiet=quiet)
    of_clinic = _read_policies(policies or {}, [split.name for split in virtual.splits])
    if not quiet:
        _tell(protocol, virtual, choices)
    with _observer(protocol, virtual, quiet) as shown, Tracking(shown, told) as tracking:
        folder, summary = run_study(
            protocol,
            virtual,
            Path(out) if out else Path("runs") / f"{protocol.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}",
            tracking.observer,
            resume=resume,
            fresh=not out,
            weights_dir=_path(weights_dir),
            engine=engine,
            ray_address=ray_address,
            policies=of_clinic,
            choices=choices,
            predictions=predictions,
        )
        tracking.finished(summary)
    return Run(folder, summary)


def _path(named: str | Path | None) -> Path | None:
    return None if named is None else Path(named)


def _read_policies(policies: Mapping[str, Path], clinics: Sequence[str]) -> "dict[str, ClinicPolicy]":
    from melfed.client.config.clinic import read_policy

    for clinic in policies:
        if clinic != "*" and clinic not in clinics:
            raise StudyError(
                f"--policy {clinic}={policies[clinic]}: no clinic {clinic!r}; the clinics are {', '.join(clinics)}"
            )
    return {clinic: read_policy(Path(path)) for clinic, path in policies.items()}


def _tell(study: StudyProtocol, virtual: "VirtualClinics", choices: Sequence[Choice]) -> None:
    """Print what was chosen, what has no effect, and what is to be thought of, before anything is trained."""
    from melfed.common.terminal.console import errors
    from melfed.simulations.api.progress import print_choices
    from melfed.simulations.run import privacy_warnings

    print_choices(choices)
    if idle := idle_values(study):
        named = ", ".join(f"{key} ({value})" for key, value in idle.items())
        errors.print(f"note: without effect in this run: {named}", style="yellow")
    for warning in privacy_warnings(study, virtual):
        errors.print(f"warning: {warning}", style="yellow")


def _observer(study: StudyProtocol, virtual: "VirtualClinics", quiet: bool) -> "AbstractContextManager[Observer]":
    from melfed.server.federation.observer import Silent
    from melfed.simulations.api.progress import RunProgress

    if quiet:
        return nullcontext(Silent())
    return RunProgress({clinic.name: _passes(study) * len(clinic.train) for clinic in virtual.clinics})


def _passes(study: StudyProtocol) -> float:
    """Return how often a round sees each image, about: progress bars are drawn by it."""
    if study.privacy is None:
        return study.training.local_epochs
    return study.privacy.steps * study.privacy.sampling_rate * study.privacy.views
