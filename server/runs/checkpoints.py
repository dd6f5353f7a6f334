"""Checkpoints: the global model and the server optimiser after each round, so that a run can go on from there.

Of a study that stops early they hold the best round's model too, and what the validations so far say.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from melfed.common.errors import RunError
from melfed.common.study.stop import BestRound
from melfed.common.tensors import Tensors, group_of, in_group, load_tensors, save_tensors

KEPT = 2
_GROUPS = ("model", "optimizer", "average", "best")
_STOP = TypeAdapter(dict[str, BestRound])
_NAME = re.compile(r"^round-(\d{6})\.safetensors$")


@dataclass(frozen=True)
class Checkpoint:
    """The state after a round (0: before the first)."""

    round: int
    digest: str
    model: Tensors
    optimizer: Tensors
    average: Tensors = field(default_factory=dict)
    """Mean of the models of the last rounds so far, where the study asks for one."""
    best: Tensors = field(default_factory=dict)
    """Model of the best round so far, where the study stops early; named as in `model`."""
    stop: Mapping[str, BestRound] = field(default_factory=dict)
    """What the validations say: under "", or in the `local` baseline by clinic."""


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically, then drop all but the newest two.

    Raises:
        StorageError: it cannot be written; earlier checkpoints stay whole.
    """
    tensors = {name: each for group in _GROUPS for name, each in in_group(group, getattr(checkpoint, group)).items()}
    path = folder / _file_name(checkpoint.round)
    stop = {"stop": {name: best.content() for name, best in checkpoint.stop.items()}} if checkpoint.stop else {}
    save_tensors(path, tensors, {"round": checkpoint.round, "digest": checkpoint.digest, **stop})
    for old in _found(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    # Left by a process that was killed while it wrote.
    for unfinished in folder.glob(".round-*"):
        unfinished.unlink(missing_ok=True)


def last_checkpoint(
    folder: Path, digest: str, parents: Collection[str] = (), told: Callable[[str], None] | None = None
) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None.

    Args:
        folder: of the checkpoints.
        digest: of the study.
        parents: digests of the shorter studies that the run has gone on from; what they left counts as the study's.
        told: is called with a line where a newer checkpoint than the returned one is damaged.

    Raises:
        RunError: the newest is of another study, there are checkpoints but none is whole, or the folder is missing.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; the run folder is damaged, start a new run")
    problems = []
    for path in reversed(_found(folder)):
        try:
            tensors, metadata = load_tensors(path)
        except RunError as error:
            problems.append(str(error))
            continue
        if metadata.get("digest") not in {digest, *parents}:
            raise RunError(f"{path}: of study {str(metadata.get('digest'))[:12]}, not {digest[:12]}")
        number = metadata.get("round")
        if type(number) is not int or path.name != _file_name(number):
            problems.append(f"{path}: damaged: its header is of round {number}; bring it back from a backup")
            continue
        if problems and told is not None:
            told(f"{problems[0]}; going on from the one before")
        parts = {name: _group(name, tensors) for name in _GROUPS}
        return Checkpoint(number, digest, **parts, stop=_stop(path, metadata.get("stop", {})))
    if problems:
        raise RunError(f"{folder}: no whole checkpoint: {problems[0]}")
    return None


def _stop(path: Path, content: object) -> dict[str, BestRound]:
    """Return what a header says of the validations. Raises RunError where it says something else."""
    try:
        return _STOP.validate_python(content)
    except ValidationError as error:
        raise RunError(
            f"{path}: its header is damaged ({error.errors()[0]['msg']}); bring it back from a backup"
        ) from None


def _file_name(number: int) -> str:
    return f"round-{number:06d}.safetensors"


def _group(name: str, tensors: dict[str, np.typing.NDArray[np.generic]]) -> Tensors:
    return {name: np.asarray(tensor, np.float32) for name, tensor in group_of(name, tensors).items()}


def _found(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _NAME.match(path.name))
