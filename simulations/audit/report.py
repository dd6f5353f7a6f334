"""The whole audit of a study, both parts of it, and how it is told."""

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from melfed.client.data.clinic_data import ClinicData
from melfed.client.privacy.plan import plan_of
from melfed.client.privacy.sampling import secure_generator
from melfed.common.model.inference import pick_device
from melfed.common.progress import Progress
from melfed.common.seeds import seed_for
from melfed.common.study.build import seal
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit.door import quiet
from melfed.simulations.audit.one_run import CanaryAudit, audit_canaries
from melfed.simulations.audit.trials import WorldsAudit, audit_worlds

if TYPE_CHECKING:
    from rich.table import Table


CONFIDENCE: Final = 0.95
PARTS: Final = 2
"""Each of the two parts has its share of the probability of a false alarm."""
MOST_REFUTED, USUAL_EPSILON = 3.01, 2.0
"""Of the two worlds: a study of an ε beyond the former is audited at the latter. It runs on the same code, with more
noise, and fewer trials refute the claim."""
MEMORY: Final = Path("/dev/shm")  # noqa: S108 (a folder of its own is made there, 0700)
"""Where files cost no waiting for a disk."""


@dataclass(frozen=True)
class Audit:
    """What both parts found. Together they raise a false alarm with probability 1 - `CONFIDENCE` at most."""

    worlds: WorldsAudit
    canaries: CanaryAudit

    @property
    def refuted(self) -> "WorldsAudit | CanaryAudit | None":
        """The part that refutes what is claimed; None where none does."""
        return next((part for part in (self.worlds, self.canaries) if part.exceeded), None)

    def report(self) -> dict[str, Any]:
        """Return everything for JSON."""
        worlds = asdict(self.worlds) | {"exceeded": self.worlds.exceeded}
        canaries = asdict(self.canaries) | {"exceeded": self.canaries.exceeded, "blind": self.canaries.blind}
        refuted = self.refuted is not None
        return {"exceeded": refuted, "confidence": CONFIDENCE, "worlds": worlds, "canaries": canaries}


def audit_study(
    study: StudyProtocol,
    clinic: ClinicData,
    *,
    canaries: int | None = None,
    seed: int | None = None,
    weights_dir: Path | None = None,
    on_trial: Progress | None = None,
    on_round: Progress | None = None,
) -> Audit:
    """Audit a study through the service of a worker on this machine.

    Args:
        study: with its recipe resolved.
        clinic: some of whose patients train beside the canaries; its images are decoded already.
        canaries: how many there are; None: as many as the head has features, but from 500 to 1000.
        seed: fixes the coins, for tests; None: from the operating system.
        weights_dir: where pretrained weights are looked for first.
        on_trial: called with (trials of two worlds done, all).
        on_round: called with (rounds with canaries done, all).

    Raises:
        WeightsError: the pretrained weights are missing or others than the study says.
        StudyError: the study has no privacy section or no noise, or cannot be trained privately; or too few canaries.
        MelfedError: of another class: images cannot be read, or the temporary folder cannot be written to.
    """
    sealed = seal(study, weights_dir)
    claimed = plan_of(sealed).epsilon
    confidence = 1 - (1 - CONFIDENCE) / PARTS
    coins = secure_generator() if seed is None else np.random.default_rng(seed_for(seed, "audit"))
    if sealed.model.weights is not None:
        weights_dir = Path(sealed.model.weights)
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with quiet(), tempfile.TemporaryDirectory(prefix="melfed-audit-", dir=memory) as folder:
        run = audit_canaries(
            sealed,
            clinic,
            coins,
            Path(folder) / "canaries",
            device=pick_device(),
            confidence=confidence,
            canaries=canaries,
            weights_dir=weights_dir,
            on_progress=on_round,
        )
        epsilon = USUAL_EPSILON if claimed > MOST_REFUTED else claimed
        worlds = audit_worlds(
            sealed, epsilon, coins, Path(folder) / "worlds", confidence=confidence, on_progress=on_trial
        )
    return Audit(worlds, run)


def audit_tables(found: Audit) -> "list[Table]":
    """Return what an audit found, for the terminal."""
    from rich.table import Table

    worlds, run = found.worlds, found.canaries
    looks = Table(title="what told two clinics apart, with and without one patient, by trials that only looked")
    looks.add_column("that patient, or the model that is sent", overflow="fold")
    looks.add_column("what is told best by", overflow="fold")
    looks.add_column("right", justify="right")
    for look in worlds.looks:
        looks.add_row(look.scenario, look.statistic, f"{look.right:.0%}")
    bounds = Table(title=f"lower bounds on ε, {CONFIDENCE:.0%} confidence together (δ = {run.delta:g})")
    for column in ("", "two worlds", "one run with canaries"):
        bounds.add_column(column, overflow="fold", justify="right" if column else "left")
    rows = {
        "claimed ε of everything that is answered": (f"{worlds.claimed:.3f}", f"{run.claimed:.3f}"),
        "lower bound on it": (f"{worlds.bound:.3f}", f"{run.bound:.3f}"),
        "had every guess been right": (f"{worlds.provable:.3f}", f"{run.provable:.3f}"),
        "guesses, and how many were right": (
            f"{worlds.trials}, {worlds.correct}",
            f"{run.guesses}, {run.correct}",
        ),
        "guessed by": (worlds.statistic, f"dot product; {run.included} of {run.canaries} canaries took part"),
        "steps, sampling rate q, noise multiplier σ": (
            "4, 1, by ε",
            f"{run.steps}, {run.sampling_rate:g}, {run.noise_multiplier:.4g}",
        ),
    }
    for name, values in rows.items():
        bounds.add_row(name, *values)
    return [looks, bounds]
