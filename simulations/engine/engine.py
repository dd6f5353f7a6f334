"""Flower's simulation engine: the only place that knows Ray.

Flower and Ray are imported after their telemetry, update checks and usage statistics are switched off, and their files
go into a folder of the run's own that is removed afterwards.
"""

import contextlib
import logging
import math
import os
import pickle
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import quote

from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import ClinicData
from melfed.client.worker.guard import Protection
from melfed.common.errors import RunError, StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.common.yaml_file import one_line
from melfed.server.federation.observer import Observer
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.engine.workspace import VARIABLE, workspace

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.serverapp import Grid

    from melfed.client.worker.worker import ClinicWorker

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
LOCAL_CLUSTER = "provider: {type: local}\navailable_node_types: {}\nhead_node_type: local\n"
PROGRESS_SECONDS = 0.5
Setting = int | float | str | bytes | bool | list[int] | list[float] | list[str] | list[bytes] | list[bool]
BackendConfig = dict[str, dict[str, Setting]]


@dataclass(frozen=True)
class Simulation:
    """What a worker process needs to act as any of the clinics."""

    study: StudyProtocol
    clinics: tuple[ClinicData, ...]
    ledgers: Path
    policies: Mapping[str, ClinicPolicy] = field(default_factory=dict)

    def protection(self, clinic: str) -> Protection:
        """Return where a clinic's ledger is, and its policy; "*" stands for all clinics without one of their own."""
        policy = self.policies.get(clinic, self.policies.get("*"))
        return Protection(self.ledgers / f"{quote(clinic, safe=' ,()')}.jsonl", policy)


def federate(
    simulation: Simulation,
    folder: RunFolder,
    initial: Tensors,
    observer: Observer,
    ray_address: str | None = None,
) -> Outcome:
    """Train a study over virtual clinics, each a Flower node, on this machine or a Ray cluster.

    Args:
        simulation: study and clinics.
        folder: receives events and checkpoints; with checkpoints in it, the run goes on from the last.
        initial: the global model's trainable tensors before the first round.
        observer: is told how the run goes.
        ray_address: of a running Ray cluster whose machines see the same files; None starts Ray here.

    Raises:
        QuorumError, StorageError, RunError: as `melfed.server.federation.rounds.Rounds.conduct`.
    """
    gpus = gpus_of(simulation.study, len(simulation.clinics), ray_address)
    simulation = replace(simulation, study=simulation.study.with_changes("resources", gpus=gpus))
    # A cluster's machines share the run's folder, not this machine's temporary one.
    with workspace(folder.path.resolve() if ray_address else None) as place, _environment(place):
        (place / "progress").mkdir()
        (place / "simulation.pickle").write_bytes(pickle.dumps(simulation))
        observer.watch(lambda: _read_progress(place / "progress"))
        return _simulate(simulation, place, folder, initial, observer, ray_address)


def _simulate(
    simulation: Simulation,
    workspace: Path,
    folder: RunFolder,
    initial: Tensors,
    observer: Observer,
    ray_address: str | None,
) -> Outcome:
    from flwr.simulation import run_simulation

    from melfed.client.flower import client_app
    from melfed.server.federation.conductor import conductor
    from melfed.server.federation.context import Conduct, StoppedError
    from melfed.server.flower import app as server_app
    from melfed.server.flower.channel import FlowerChannel
    from melfed.simulations.engine.actors import replaced_backend

    _silence()
    study, stop, ended = simulation.study, threading.Event(), threading.Event()
    rounds = conductor(study)(study, folder, initial, Conduct(len(simulation.clinics), stop), observer)
    failure: list[Exception] = []

    def conduct(grid: "Grid") -> None:
        # Flower logs a ServerApp's exception with its traceback, so it is carried past Flower instead.
        try:
            rounds.conduct(FlowerChannel(grid))
        except Exception as error:  # noqa: BLE001 (raised again below)
            failure.append(error)
        finally:
            ended.set()

    def told(partition: int, reason: str) -> None:
        observer.noticed(f"clinic {simulation.clinics[partition].name}: {reason}")

    crash = ""
    with replaced_backend(told, ended, down=stop):
        try:
            run_simulation(
                server_app=server_app.make_app(conduct),
                client_app=client_app.make_app(WorkerOfPartition(workspace)),
                num_supernodes=len(simulation.clinics),
                backend_config=_backend(study, len(simulation.clinics), workspace, ray_address),
            )
        except RuntimeError as error:
            crash = one_line(_first_cause(error))
        finally:
            stop.set()
    if failure and isinstance(failure[0], StoppedError):
        crash = "one of its processes has ended: killed, or out of memory"
    elif failure:
        raise failure[0]
    if crash:
        raise RunError(f"{folder.path}: Ray could not go on ({crash}); go on with --resume {folder.path}")
    if rounds.outcome is None:
        raise RunError(f"{folder.path}: the simulation engine stopped early; go on with --resume {folder.path}")
    return rounds.outcome


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class WorkerOfPartition:
    """Finds the worker of a Flower node's partition, in whichever process the message has landed."""

    workspace: Path

    def __call__(self, context: "Context", _message: "Message") -> "ClinicWorker":
        """Return the worker; one a clinic and process, so that its images stay open between rounds."""
        return _worker(self.workspace, int(context.node_config["partition-id"]))


@lru_cache(maxsize=1)
def _simulation(workspace: Path) -> Simulation:
    # Written by this run's own process into its own folder (mode 0700).
    simulation: Simulation = pickle.loads((workspace / "simulation.pickle").read_bytes())  # noqa: S301
    return simulation


@lru_cache(maxsize=64)
def _worker(workspace: Path, partition: int) -> "ClinicWorker":
    import torch

    from melfed.client.worker.worker import ClinicWorker

    simulation = _simulation(workspace)
    resources = simulation.study.resources
    torch.set_num_threads(max(1, math.floor(resources.cpus)))
    data = simulation.clinics[partition]
    report = _Report(workspace / "progress" / str(partition), data.name)
    # Ray hides no GPU from a process that asked for none, and all of them would meet on the first.
    device = torch.device("cpu") if resources.gpus == 0 else None
    return ClinicWorker(
        data, simulation.study, device=device, on_progress=report, protection=simulation.protection(data.name)
    )


class _Report:
    """Leaves a clinic's progress in a small file that the main process reads."""

    def __init__(self, path: Path, clinic: str) -> None:
        self.path, self.clinic, self.last = path, clinic, 0.0

    def __call__(self, images: int) -> None:
        if monotonic() - self.last >= PROGRESS_SECONDS:
            self.last = monotonic()
            self.path.write_text(f"{images} {self.clinic}")


def _read_progress(folder: Path) -> dict[str, int]:
    progress = {}
    for path in folder.iterdir():
        images, _, clinic = path.read_text().partition(" ")
        if clinic:
            progress[clinic] = int(images)
    return progress


def _backend(study: StudyProtocol, clinics: int, workspace: Path, ray_address: str | None) -> BackendConfig:
    """Return Flower's backend configuration: resources a clinic, and Ray's own settings."""
    resources = study.resources
    init: dict[str, Setting] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    if ray_address:
        init["address"] = ray_address
    else:
        # No more worker processes than clinics.
        init["num_cpus"] = max(1, min(os.cpu_count() or 1, math.ceil(resources.cpus * clinics)))
        init["_temp_dir"] = str(workspace / "ray")
    return {"client_resources": {"num_cpus": resources.cpus, "num_gpus": resources.gpus or 0.0}, "init_args": init}


def gpus_of(study: StudyProtocol, clinics: int, ray_address: str | None) -> float:
    """Return how many GPUs a clinic's process gets: as the study says, else an equal share of what this machine has."""
    if study.resources.gpus is not None or ray_address:
        return study.resources.gpus or 0.0
    import torch

    found = torch.cuda.device_count()
    at_a_time = min(clinics, max(1, math.floor((os.cpu_count() or 1) / study.resources.cpus)))
    # Ray counts in ten thousandths, and more than one GPU only in whole numbers.
    share = found / at_a_time
    return float(math.floor(share)) if share >= 1 else math.floor(share * 10_000) / 10_000


def check_resources(study: StudyProtocol, ray_address: str | None) -> None:
    """Raise StudyError where a clinic asks for more CPUs or GPUs than this machine has."""
    if ray_address:
        return
    cpus = os.cpu_count() or 1
    if study.resources.cpus > cpus:
        raise StudyError(f"resources.cpus is {study.resources.cpus:g}, but this machine has {cpus}; ask for less")
    if study.resources.gpus:
        import torch

        gpus = torch.cuda.device_count()
        if study.resources.gpus > gpus:
            raise StudyError(f"resources.gpus is {study.resources.gpus:g}, but this machine has {gpus}; ask for less")


@contextlib.contextmanager
def _environment(workspace: Path) -> Iterator[None]:
    """Switch off all reporting home, and keep Flower's and Ray's files in the workspace; undone afterwards.

    Ray asks the cloud providers' metadata addresses where it runs, even with its usage statistics off, unless a cluster
    file in the home folder says so: hence a home folder of its own.
    """
    home = workspace / "home"
    home.mkdir()
    (home / "ray_bootstrap_config.yaml").write_text(LOCAL_CLUSTER)
    changes = {**QUIET, "FLWR_HOME": str(workspace / "flwr"), "HOME": str(home), VARIABLE: str(workspace)}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _silence() -> None:
    """Keep Flower's and Ray's own messages off the terminal; errors of clinics come back in replies."""
    for name in ("flwr", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
