"""Simulation on this machine alone: melfed's ClientApp in a pool of processes, and its rounds in this one."""

import math
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from flwr.supercore.task_identity import TaskIdentity

from melfed.common.errors import RunError
from melfed.common.flower_pins import check_flower
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.federation.conductor import conductor
from melfed.server.federation.context import Conduct
from melfed.server.federation.observer import Observer
from melfed.server.flower.channel import FlowerChannel
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.engine.fork_server import prepare
from melfed.simulations.engine.grid import LocalGrid
from melfed.simulations.engine.local_worker import begin
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.engine.process_pool import ProcessPool


def simulate(
    simulation: Simulation, workspace: Path, folder: RunFolder, initial: Tensors, observer: Observer
) -> Outcome:
    """Train a study over virtual clinics; see `melfed.simulations.engine.engine.federate`."""
    check_flower("local simulation")
    context, clinics = prepare(), simulation.clinics

    def create() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, begin, (workspace,))

    def told(partition: int, reason: str) -> None:
        observer.noticed(f"clinic {clinics[partition].name}: {reason}")

    # Flower's messages say whose they are; there is one run, and one ServerApp.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    # Whoever pulls replies waits for them, so there is no interval to pass.
    rounds = conductor(simulation.study)(
        simulation.study, folder, initial, Conduct(len(clinics), poll_seconds=0.0), observer
    )
    size = processes(simulation.study, len(clinics)) if simulation.alone else 1
    with ProcessPool(create, size, told) as pool:
        rounds.conduct(FlowerChannel(LocalGrid(len(clinics), pool, workspace)))
    if rounds.outcome is None:
        raise RunError(f"{folder.path}: the run stopped early; go on with --resume {folder.path}")
    return rounds.outcome


def processes(study: StudyProtocol, clinics: int) -> int:
    """Return how many processes there are: as many as the cores that this process may use allow, at least one."""
    return max(1, min(clinics, math.floor(len(os.sched_getaffinity(0)) / study.resources.cpus)))
