"""Runs a simulation: in processes of this machine, or with Flower's simulation on Ray."""

import math
import os
from dataclasses import replace
from typing import Literal

import torch

from melfed.common.errors import StudyError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.federation.observer import Observer
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.engine.partition_worker import Simulation, lay_out, read_progress
from melfed.simulations.engine.workspace import workspace

Engine = Literal["auto", "local", "ray"]


def choose(
    engine: Engine, study: StudyProtocol, clinics: int, ray_address: str | None = None, *, alone: bool = True
) -> Literal["local", "ray"]:
    """Return the engine of a run: Ray where there is a cluster, or a GPU to share; else this machine's processes.

    Raises:
        StudyError: what is asked for cannot be had together.
    """
    if engine == "local" and ray_address:
        raise StudyError("--engine local is one machine, and --ray-address names a cluster; leave one of them out")
    if engine == "local" and study.resources.gpus and alone:
        raise StudyError(
            f"resources.gpus is {study.resources.gpus:g}, and --engine local has no GPU to share; take --engine ray"
        )
    if engine != "auto":
        return engine
    return "ray" if ray_address or gpus_of(study, clinics, None) else "local"


def federate(
    simulation: Simulation,
    folder: RunFolder,
    initial: Tensors,
    observer: Observer,
    engine: Literal["local", "ray"],
    ray_address: str | None = None,
) -> Outcome:
    """Train a study over virtual clinics, each a Flower node, on this machine or a Ray cluster.

    Both engines carry Flower's messages to the same ClientApp, and give the same numbers.

    Args:
        simulation: study and clinics.
        folder: receives events and checkpoints; with checkpoints in it, the run goes on from the last.
        initial: the global model's trainable tensors before the first round.
        observer: is told how the run goes.
        engine: see `choose`.
        ray_address: of a running Ray cluster whose machines see the same files; None: Ray is started here.

    Raises:
        QuorumError, StorageError, RunError: as `melfed.server.federation.rounds.Rounds.conduct`.
    """
    if engine == "ray":
        gpus = gpus_of(simulation.study, len(simulation.clinics), ray_address)
    else:
        # A run that is one of several has the share that was set aside for it.
        gpus = 0.0 if simulation.alone else simulation.study.resources.gpus or 0.0
    simulation = replace(simulation, study=simulation.study.with_changes("resources", gpus=gpus))
    # A cluster's machines share the run's folder, not this machine's temporary one.
    with workspace(folder.path.resolve() if ray_address else None) as place:
        lay_out(simulation, place)
        observer.watch(lambda: read_progress(place))
        if engine == "ray":
            from melfed.simulations.engine import ray_engine

            return ray_engine.simulate(simulation, place, folder, initial, observer, ray_address)
        from melfed.simulations.engine import local_engine

        return local_engine.simulate(simulation, place, folder, initial, observer)


def gpus_of(study: StudyProtocol, clinics: int, ray_address: str | None) -> float:
    """Return how many GPUs a clinic's process gets: as the study says, else an equal share of what this machine has."""
    if study.resources.gpus is not None or ray_address:
        return study.resources.gpus or 0.0
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
        gpus = torch.cuda.device_count()
        if study.resources.gpus > gpus:
            raise StudyError(f"resources.gpus is {study.resources.gpus:g}, but this machine has {gpus}; ask for less")
