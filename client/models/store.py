"""Where a clinic keeps the models that it was sent: a file a model, `STATE/worker/models/NAME.safetensors`, 0600.

A file holds all tensors of the network, so that it is of use without the weights that the study began with, and in its
header the study, what is told of the model, who signed it and when it came.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import safetensors
from pydantic import ValidationError

from melfed.common.errors import RunError, StorageError
from melfed.common.export.facts import ModelFacts, read_facts
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors, save_tensors

if TYPE_CHECKING:
    from melfed.common.model.classifier import Classifier

_SUFFIX = ".safetensors"
_RUN = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True)
class KeptModel:
    """A model that is here.

    Attributes:
        path: its file.
        facts: what the coordinator told of it.
        study: that it was made by.
        signer: SHA-256 of the coordinator's certificate at the time.
        received: when, UTC, ISO 8601.
    """

    path: Path
    facts: ModelFacts
    study: StudyProtocol
    signer: str
    received: str

    @property
    def name(self) -> str:
        """What the commands call it: twelve digits of the study's digest, and the run's identity."""
        return self.path.name.removesuffix(_SUFFIX)


class ModelStore:
    """The models below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(
        self, tensors: Mapping[str, npt.NDArray[np.generic]], facts: ModelFacts, study: StudyProtocol, signer: str
    ) -> KeptModel:
        """Keep a model; one of the same run is replaced.

        Raises:
            RunError: the run has no identity that a file can be named by.
            StorageError: it cannot be written.
        """
        if not _RUN.fullmatch(facts.run):
            raise RunError("the model does not say which run made it; ask the coordinator to deliver it again")
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be made: {error.strerror}; see who owns the state") from None
        path = self.folder / f"{study.digest[:12]}-{facts.run}{_SUFFIX}"
        kept = KeptModel(path, facts, study, signer, datetime.now(UTC).isoformat(timespec="seconds"))
        header = {
            "facts": facts.model_dump(mode="json"),
            "study": study.model_dump(mode="json"),
            "signer": signer,
            "received": kept.received,
        }
        kept.path.with_suffix(".scores.json").unlink(missing_ok=True)  # they are of the model that was here before
        save_tensors(kept.path, tensors, header)
        return kept

    def all(self) -> list[KeptModel]:
        """Return the models that are here, by name. Raises RunError where a file is damaged."""
        return [_read(path) for path in sorted(self.folder.glob(f"*{_SUFFIX}"))]

    def find(self, name: str) -> KeptModel:
        """Return the one model whose name, or study's name, begins with this. Raises RunError."""
        models = self.all()
        found = [m for m in models if name in {m.name, m.facts.name}]
        found = found or [m for m in models if m.name.startswith(name) or m.facts.name.startswith(name)]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(m.name for m in found or models) or "none was sent, or policy.models takes none"
        which = f"several models are called {name!r}" if found else f"no model {name!r} here"
        raise RunError(f"{self.folder}: {which}: {listed}")

    def remove(self, model: KeptModel) -> None:
        """Delete a model, and what was kept beside it. Raises StorageError."""
        try:
            model.path.with_suffix(".scores.json").unlink(missing_ok=True)
            model.path.unlink()
        except OSError as error:
            raise StorageError(f"{model.path}: cannot be deleted: {error.strerror}") from None


def load(model: KeptModel) -> "Classifier":
    """Return a model's network, on the CPU. Raises RunError where the file is damaged."""
    import torch

    from melfed.common.errors import WeightsError
    from melfed.common.model.classifier import saved_classifier

    arrays, _ = load_tensors(model.path, summed=True)
    try:
        return saved_classifier(model.study.model, {name: torch.from_numpy(array) for name, array in arrays.items()})
    except WeightsError as error:
        raise RunError(f"{model.path}: {error}; the file is damaged, ask for the model again") from None


def _read(path: Path) -> KeptModel:
    """Return what a file's header says. Raises RunError."""
    damaged = f"{path}: damaged; remove it, and ask the coordinator to deliver the model again"
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            written = dict(file.metadata() or {})
        header = {key: json.loads(written[key]) for key in ("facts", "study", "signer", "received")}
        study = StudyProtocol.model_validate_json(json.dumps(header["study"]))
        facts = read_facts(json.dumps(header["facts"]), str(path))
        return KeptModel(path, facts, study, str(header["signer"]), str(header["received"]))
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, ValidationError):
        raise RunError(damaged) from None
