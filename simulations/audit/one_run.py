"""An empirical lower bound on the ε of a study, from one run of a clinic with many canary patients.

The clinic is one of the study's, with a few of its own patients and canaries (`melfed.simulations.audit.canaries`) in
its table, each of which is there by a fair coin. Its worker answers all rounds through its service
(`melfed.simulations.audit.door`), with the study's own network, sampling, clipping and noise. The auditor, who sends
the same model each round, sees the answers alone, and guesses the coins; `melfed.simulations.audit.bound` turns the
right guesses into a bound (arXiv 2305.08846).

The bound is far below the true ε, so a claim that it leaves standing is not proven by it. What a bound above the
claimed ε does prove is a fault: missing noise, broken clipping, images counted as patients, wrong sampling.
"""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from melfed.client.data.clinic_data import ClinicData
from melfed.client.ledger.key import ledger_key
from melfed.client.privacy.accounting import Mechanism
from melfed.client.privacy.plan import plan_of, privacy_of
from melfed.client.privacy.units import units_of
from melfed.client.rpc import worker_pb2 as pb
from melfed.common.errors import StudyError
from melfed.common.model.classifier import trainable_tensors
from melfed.common.progress import Progress
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit.bound import lower_bound, provable
from melfed.simulations.audit.canaries import Auditor, Bits, CanaryWorker, correct_guesses
from melfed.simulations.audit.door import (
    AuditedClinic,
    Picture,
    Question,
    images_of,
    nameless,
    patients,
    png,
    policy_for,
    write_data,
)

ORDINARY_UNITS: Final = 16
"""Patients of the clinic's own that train beside the canaries."""
IMAGES_A_CANARY: Final = 4
"""Several, so that images counted as patients of their own would show; one where the unit is the image."""
FEWEST_CANARIES, DEFAULT_CANARIES, MOST_CANARIES = 8, (500, 1000), 1_000_000
USUAL_GUESSES, MOST_GUESSES = 0.1, 0.8
"""Fractions of the canaries that are guessed about. Of all of them, one would have to know how many are in."""
MARGIN: Final = 0.9
"""How far above the claimed ε right guesses must be able to reach, before more are made than usual."""
LARGEST_EPSILON: Final = 50.0
"""More canaries than there are people could not refute it."""
LEARNING_RATE: Final = 1e-3
RUN: Final = "audit"


@dataclass(frozen=True)
class CanaryAudit:
    """What a run with canaries found.

    Attributes:
        claimed: ε of the whole run at `delta`, by the accounting.
        bound: the ε that it exceeds, with probability `confidence`.
        provable: the bound if every guess had been right: no fault is seen that costs less than this.
        canaries, included, guesses, correct: how many there were, took part, were guessed about, and rightly so.
        features: of the head: canaries beyond these stand in one another's way.
        steps, sampling_rate, noise_multiplier, delta: the mechanism.
    """

    claimed: float
    bound: float
    provable: float
    confidence: float
    canaries: int
    included: int
    guesses: int
    correct: int
    features: int
    steps: int
    sampling_rate: float
    noise_multiplier: float
    delta: float

    @property
    def exceeded(self) -> bool:
        """Whether the accounting's claim is refuted."""
        return self.bound > self.claimed

    @property
    def blind(self) -> str | None:
        """Why this audit could hardly have seen a fault; None where it could."""
        if self.provable <= self.claimed:
            needed = guesses_against(self.claimed, self.confidence) / MOST_GUESSES
            return f"{self.canaries} canaries cannot refute ε = {self.claimed:.3g}; use --canaries {math.ceil(needed)}"
        # Half of the canaries that share a coordinate take part, and stand in the place of noise that is missing.
        crowd = self.sampling_rate * max(0.0, self.canaries / self.features - 1) / 2
        if crowd > (self.noise_multiplier / 3) ** 2:
            return (
                f"{self.canaries} canaries hide one another in a head of {self.features} features; use fewer, or "
                "another backbone"
            )
        return None


def audit_canaries(
    study: StudyProtocol,
    clinic: ClinicData,
    coins: np.random.Generator,
    folder: Path,
    *,
    device: torch.device,
    confidence: float,
    canaries: int | None = None,
    weights_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> CanaryAudit:
    """Ask a clinic with canaries for all rounds of a study, and bound its ε from below.

    Args:
        study: with a privacy section, its recipe resolved and its weights sealed.
        clinic: some of whose patients are in the table beside the canaries.
        coins: decides which canaries take part, and where their gradients lie.
        folder: where the clinic is made.
        device: where it trains.
        confidence: of the bound.
        canaries: how many there are; None: as many as the head has features, but from 500 to 1000.
        weights_dir: where pretrained weights are looked for first.
        on_progress: called with (rounds done, all).

    Raises:
        StudyError: the study has no privacy section or no noise, or cannot be trained privately; or too few canaries;
            or the clinic does not answer.
        MelfedError: of another class: the clinic's own images cannot be read.
    """
    asked = plain_steps(study)
    privacy, plan = privacy_of(asked), plan_of(asked)
    if not math.isfinite(plan.epsilon):
        raise StudyError(f"study {study.name} claims no finite epsilon at delta {privacy.delta:g}: nothing to audit")
    model = build_study_classifier(asked, weights_dir)
    if not model.head.weight.requires_grad:
        raise StudyError("the head of the network does not learn, so canaries have no place; change model.train")
    features = model.head.in_features
    canaries = int(np.clip(features, *DEFAULT_CANARIES)) if canaries is None else canaries
    if not FEWEST_CANARIES <= canaries <= MOST_CANARIES:
        raise StudyError(f"{canaries} canaries are not from {FEWEST_CANARIES} to {MOST_CANARIES}; take hundreds")
    steps = plan.rounds * privacy.steps
    guesses = guesses_of(canaries, plan.epsilon, replace(plan.training, steps=steps), confidence)
    included = coins.integers(0, 2, canaries).astype(bool)
    auditor = Auditor(canaries, plan.training, features, coins)
    key, names = ledger_key(folder / "key" / "ledger.jsonl"), _write(folder, asked, clinic, included)
    worker = functools.partial(CanaryWorker, auditor, names)
    # A little more, since the ledger adds up in another order than the plan.
    policy = policy_for(asked, max(privacy.epsilon or 0.0, plan.epsilon * (1 + 1e-6)))
    with AuditedClinic(folder, policy, device, weights_dir, worker) as door:
        door.take_key(key)
        tensors = trainable_tensors(model)
        for number in range(1, plan.rounds + 1):
            seen = door.ask(asked, Question("train", RUN, number, tensors))
            if isinstance(seen.message, pb.Failure):
                raise StudyError(f"the audited clinic does not answer: {seen.message.kind}: {seen.message.reason}")
            assert isinstance(seen.message, pb.Answer)  # noqa: S101 (what is no failure is one)
            moved = tensors["head.weight"][0].astype(np.float64) - seen.arrays["tensors/head.weight"][0]
            # A plain step moves the weights by the noisy sum over the clinic's own number of units.
            scale = seen.message.weight * privacy.sampling_rate / (LEARNING_RATE * privacy.clipping_norm)
            auditor.observe(moved * scale)
            if on_progress:
                on_progress(number, plan.rounds)
    correct = correct_guesses(auditor.scores, included, *guesses)
    return CanaryAudit(
        claimed=plan.epsilon,
        bound=lower_bound(canaries, sum(guesses), correct, privacy.delta, confidence),
        provable=provable(canaries, sum(guesses), privacy.delta, confidence),
        confidence=confidence,
        canaries=canaries,
        included=int(included.sum()),
        guesses=sum(guesses),
        correct=correct,
        features=features,
        steps=auditor.rounds * privacy.steps,
        sampling_rate=privacy.sampling_rate,
        noise_multiplier=plan.training.noise_multiplier,
        delta=privacy.delta,
    )


def plain_steps(study: StudyProtocol) -> StudyProtocol:
    """Return what the auditor, a coordinator who wants to see most, makes of a study: its steps hide nothing.

    Privacy and network are the study's own. Validations are left out but the last, whose cost the accounting has.
    """
    return study.with_sections(
        {
            "data": {"phantom": None, "sources": "all"},
            "training": {
                "optimizer": "sgd",
                "learning_rate": LEARNING_RATE,
                "schedule": "constant",
                "warmup_steps": 0,
                "gradient_norm": None,
                "weight_decay": 0.0,
                "momentum": 0.0,
                "augment": False,
            },
            "federation": {"algorithm": "fedavg", "validate_every": study.federation.rounds},
        }
    )


def guesses_of(canaries: int, claimed: float, mechanism: Mechanism, confidence: float) -> tuple[int, int]:
    """Return about how many canaries to guess that they took part, and about how many that they did not.

    Together a tenth, or more where a high ε takes more to be refuted: r right guesses prove no more than about
    ln(r / 3) at 95 % confidence. The fewer, the surer each is, since noise is least at the two ends of the ranking.
    Where sampling is so rare that a canary may never be drawn, nothing can tell that it was left out, and no such guess
    is made. Nothing that is seen of the outcome enters here, as the bound demands.
    """
    wanted = max(USUAL_GUESSES * canaries, guesses_against(claimed, confidence)) / 2
    most, q = math.floor(MOST_GUESSES * canaries / 2), mechanism.sampling_rate
    if q == 1 or -mechanism.steps * math.log1p(-q) >= claimed + MARGIN:
        each = min(math.floor(wanted), most)
        return each, each
    return min(math.floor(2 * wanted), most), 0


def guesses_against(claimed: float, confidence: float) -> float:
    """Return how many right guesses refute a claimed ε with some margin."""
    return -math.log(1 - confidence) * math.exp(min(claimed, LARGEST_EPSILON) + MARGIN)


def _write(folder: Path, study: StudyProtocol, clinic: ClinicData, included: Bits) -> dict[str, int]:
    """Write the clinic's table and pictures; returns which canary each picture is of, by name."""
    key = ledger_key(folder / "key" / "ledger.jsonl")
    ordinary = _ordinary(clinic, study)
    like = nameless(0, _negative(clinic))
    images = 1 if privacy_of(study).unit == "image" else IMAGES_A_CANARY
    side = study.data.image_size
    picture = png(np.zeros((side, side, 3), np.uint8))
    names: dict[str, int] = {}
    canaries: list[Picture] = []
    for number, canary in enumerate(patients("canary", len(included), study, key, "train", like)):
        if included[number]:
            records = images_of(canary, images)
            names |= {record.image: number for record in records}
            canaries += [Picture(record, picture) for record in records]
    write_data(folder, [*ordinary, *canaries])
    return names


def _ordinary(clinic: ClinicData, study: StudyProtocol) -> list[Picture]:
    """Return the training images of some of a clinic's units, under names without folders."""
    units = units_of(clinic.train, privacy_of(study).unit)
    chosen = set(list(dict.fromkeys(unit for unit in units if unit is not None))[:ORDINARY_UNITS])
    pictures = []
    for number, (record, unit) in enumerate(zip(clinic.train, units, strict=True)):
        if unit in chosen:
            place = Path(record.image)
            name = f"own-{number}{place.suffix}"
            pictures.append(Picture(replace(record, image=name), (clinic.root / place).read_bytes()))
    return pictures


def _negative(clinic: ClinicData) -> str | None:
    """Return a diagnosis that is no positive one, as the clinic's own images have it."""
    return next((record.diagnosis for record in clinic.train if not record.target), None)
