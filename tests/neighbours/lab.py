"""Many models for three clinics that are read once: a crowd's, one with a patient more, and that patient's alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melfed.client.ledger.witness import Witness
from melfed.client.privacy.plan import privacy_of
from melfed.client.worker.process import _workers
from melfed.client.worker.worker import ClinicWorker
from melfed.common.audit.log import AuditLog
from melfed.common.errors import MelfedError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from tests.neighbours.check import ROUNDING, SLACK
from tests.neighbours.clinics import Patient, write_clinic
from tests.neighbours.coupling import World, coupled
from tests.neighbours.questions import CPU


@dataclass(frozen=True)
class Measured:
    """What one patient changes of the sums of a round's steps; lengths in C, the worst step's.

    Attributes:
        difference: of the sums with and without that patient.
        share: of that patient alone.
        rounding: what the others' shares changed, though they are the same patients.
        told: what answers differ in besides; "" for nothing.
    """

    difference: float
    share: float
    rounding: float
    told: str

    def bound(self, shared: int) -> float:
        """Return the worst of the three over what it may be, with so many patients that both clinics hold."""
        others = shared * ROUNDING
        worst = max(self.difference / (1 + SLACK + others), self.share / (1 + SLACK), self.rounding / (others + 1e-12))
        return np.inf if self.told else worst


class Lab:
    """The three clinics, and a study that each of them trains a round of whenever a model comes."""

    def __init__(
        self,
        folder: Path,
        study: StudyProtocol,
        crowd: Sequence[Patient],
        one: Patient,
        weights: Path | None = None,
    ) -> None:
        """Set the three clinics up.

        Args:
            folder: of their kits; new.
            study: private.
            crowd: whom two of them have.
            one: the patient in question.
            weights: folder of pretrained ones. One for the three, so that their workers load their tensors into one
                network in turn (`shared_classifier`), which takes longer to build than a round of them all.
        """
        sections = {} if weights is None else {"weights": str(weights)}
        self.study, self.one = study, one.unit
        self.workers: dict[str, ClinicWorker] = {}
        for name, patients in (("without", crowd), ("with", (one, *crowd)), ("alone", (one,))):
            with coupled(World(free=True)):
                config = write_clinic(folder / name, patients, **sections)
                worker = _workers(config, CPU, Witness(config.ledger, AuditLog(config.audit_log, "worker")))(study)
            assert isinstance(worker, ClinicWorker)
            self.workers[name] = worker

    def measure(self, model: Tensors) -> Measured:
        """Let the three train round 1 from a model."""
        worlds: dict[str, World] = {}
        told: dict[str, str] = {}
        for name, worker in self.workers.items():
            world = worlds[name] = World(first=worlds.get("without"), one=self.one, free=True)
            with coupled(world):
                try:
                    reply = worker.train(model, 1, self.study.digest, "run")
                    told[name] = f"{reply.weight} " + " ".join(
                        f"{n} {t.tobytes().hex()}" for n, t in reply.tensors.items()
                    )
                except MelfedError as error:
                    told[name] = f"{type(error).__name__}: {error}"
        sums = {name: [r.exact for r in world.releases if r.kind == "training"] for name, world in worlds.items()}
        norm = privacy_of(self.study).clipping_norm
        steps = list(zip(sums["without"], sums["with"], sums["alone"], strict=True))
        with np.errstate(all="ignore"):
            difference, share, rounding = (
                max((float(np.linalg.norm(value)) / norm for value in values), default=0.0)
                for values in (
                    [b - a for a, b, _ in steps],
                    [c for *_, c in steps],
                    [b - a - c for a, b, c in steps],
                )
            )
        differs = "answers" if len(set(told.values())) > 1 or not steps else ""
        finite = [v if np.isfinite(v) else np.inf for v in (difference, share, rounding)]
        return Measured(*finite, differs)
