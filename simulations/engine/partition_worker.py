"""Inside a worker process of a simulation, whichever engine started it: the workers of the clinics that land there."""

import functools
import math
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from urllib.parse import quote

import torch
from flwr.app import Context, Message

from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import ClinicData
from melfed.client.privacy.plan import PrivacyPlan, adopt
from melfed.client.worker.guard import Protection
from melfed.client.worker.worker import ClinicWorker
from melfed.common.study.protocol import StudyProtocol

PROGRESS_SECONDS = 0.5
FILE, PROGRESS = "simulation.pickle", "progress"
"""Of the workspace: what is simulated, and the folder of what the processes are at."""


@dataclass(frozen=True)
class Simulation:
    """What a worker process needs to act as any of the clinics.

    Attributes:
        study: located, so that nobody searches for its weights.
        clinics: all of them.
        ledgers: folder of their ledgers.
        policies: by clinic; "*" stands for all clinics without one of their own.
        plan: of a private study, made and checked once for all processes; None: each makes its own.
        alone: False where other runs share the machine: the local engine then has one process, with the study's share.
    """

    study: StudyProtocol
    clinics: tuple[ClinicData, ...]
    ledgers: Path
    policies: Mapping[str, ClinicPolicy] = field(default_factory=dict)
    plan: PrivacyPlan | None = None
    alone: bool = True

    def protection(self, clinic: str) -> Protection:
        """Return where a clinic's ledger is, and its policy; "*" stands for all clinics without one of their own."""
        policy = self.policies.get(clinic, self.policies.get("*"))
        return Protection(self.ledgers / f"{quote(clinic, safe=' ,()')}.jsonl", policy)

    def states(self, clinic: str) -> Path:
        """Return where a clinic keeps what its algorithm keeps from round to round."""
        return self.ledgers.parent / "states" / quote(clinic, safe=" ,()")


def lay_out(simulation: Simulation, workspace: Path) -> None:
    """Write into a workspace what its processes will read."""
    (workspace / PROGRESS).mkdir()
    (workspace / FILE).write_bytes(pickle.dumps(simulation))


@dataclass(frozen=True)
class WorkerOfPartition:
    """Finds the worker of a Flower node's partition, in whichever process the message has landed."""

    workspace: Path

    def __call__(self, context: Context, _message: Message) -> ClinicWorker:
        """Return the worker; one a clinic and process, so that its images stay open between rounds."""
        return worker_of(self.workspace, int(str(context.node_config["partition-id"])))


@functools.lru_cache(maxsize=1)
def _simulation(workspace: Path) -> Simulation:
    # Written by this run's own process into its own folder (mode 0700).
    simulation: Simulation = pickle.loads((workspace / FILE).read_bytes())  # noqa: S301
    if simulation.plan is not None:
        adopt(simulation.study, simulation.plan)
    return simulation


# All that there are: of a clinic, a worker holds the names of its images and where they are, and no pixels.
@functools.cache
def worker_of(workspace: Path, partition: int) -> ClinicWorker:
    """Return a clinic's worker in this process."""
    simulation = _simulation(workspace)
    resources = simulation.study.resources
    torch.set_num_threads(max(1, math.floor(resources.cpus)))
    data = simulation.clinics[partition]
    # Ray hides no GPU from a process that asked for none, and all of them would meet on the first.
    device = torch.device("cpu") if resources.gpus == 0 else None
    return ClinicWorker(
        data,
        simulation.study,
        device=device,
        on_progress=Report(workspace / PROGRESS / f"{socket.gethostname()}-{os.getpid()}", data.name),
        protection=simulation.protection(data.name),
        states=simulation.states(data.name),
    )


class Report:
    """Leaves in a small file, one a process, which clinic it trains and how far it is; the main process reads them."""

    def __init__(self, path: Path, clinic: str) -> None:
        self.path, self.clinic, self.last = path, clinic, 0.0

    def __call__(self, images: int) -> None:
        """Tell the number of images so far, twice a second at most."""
        if monotonic() - self.last >= PROGRESS_SECONDS:
            self.last = monotonic()
            self.path.write_text(f"{images} {self.clinic}")


def read_progress(workspace: Path) -> dict[str, int]:
    """Return on how many images each clinic has trained that is being trained now."""
    progress = {}
    for path in (workspace / PROGRESS).iterdir():
        images, _, clinic = path.read_text().partition(" ")
        if clinic:
            progress[clinic] = int(images)
    return progress
