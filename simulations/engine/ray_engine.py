"""Flower's own simulation engine, on Ray: on several machines, or where GPUs are shared.

Flower and Ray are imported after their telemetry, update checks and usage statistics are switched off, and their files
go into a folder of the run's own that is removed afterwards.
"""

import contextlib
import logging
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from flwr.serverapp import Grid

from melfed.client.flower import client_app
from melfed.common.errors import RunError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.common.yaml_file import one_line
from melfed.server.federation.conductor import conductor
from melfed.server.federation.context import Conduct, StoppedError
from melfed.server.federation.observer import Observer
from melfed.server.flower import app as server_app
from melfed.server.flower.channel import FlowerChannel
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.engine.partition_worker import Simulation, WorkerOfPartition
from melfed.simulations.engine.workspace import VARIABLE

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
LOCAL_CLUSTER = "provider: {type: local}\navailable_node_types: {}\nhead_node_type: local\n"
Setting = int | float | str | bytes | bool | list[int] | list[float] | list[str] | list[bytes] | list[bool]
BackendConfig = dict[str, dict[str, Setting]]


def simulate(
    simulation: Simulation,
    workspace: Path,
    folder: RunFolder,
    initial: Tensors,
    observer: Observer,
    ray_address: str | None,
) -> Outcome:
    """Train a study over virtual clinics; see `melfed.simulations.engine.engine.federate`."""
    with environment(workspace):
        return _simulate(simulation, workspace, folder, initial, observer, ray_address)


def _simulate(
    simulation: Simulation,
    workspace: Path,
    folder: RunFolder,
    initial: Tensors,
    observer: Observer,
    ray_address: str | None,
) -> Outcome:
    from flwr.simulation import run_simulation

    from melfed.simulations.engine.actors import replaced_backend

    _silence()
    study, stop, ended = simulation.study, threading.Event(), threading.Event()
    rounds = conductor(study)(study, folder, initial, Conduct(len(simulation.clinics), stop), observer)
    failure: list[Exception] = []

    def conduct(grid: Grid) -> None:
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


@contextlib.contextmanager
def environment(workspace: Path) -> Iterator[None]:
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
