"""An empirical lower bound on the ε of a study, from one training run with canary patients.

One virtual clinic trains as in a real run (the same sampling, gradients, clipping, noise and optimiser, and σ of the
study's plan) on a few of its own patients and on canaries (`simulations.canaries`), each of which takes part by a fair
coin. The auditor sees every step's noisy mean, as the accounting assumes, and guesses the coins;
`simulations.audit_bound` turns the right guesses into a bound (arXiv 2305.08846).

The bound is far below the true ε, so a claim that it leaves standing is not proven by it. What a bound above the
claimed ε does prove, at 95 % confidence, is a fault: missing noise, broken clipping, images counted as patients, wrong
sampling.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from client.cache import FeatureCache
from client.dataset import ClinicData
from client.inputs import CachedInputs, Inputs, PixelInputs
from client.local_optimizer import LocalOptimizer
from client.privacy.accounting import Mechanism, epsilon
from client.privacy.plan import plan_of, privacy_of
from client.privacy.sampling import secure_generator
from client.privacy.units import privacy_units
from client.private_training import PrivateTrainer
from common.classifier import Classifier
from common.errors import StudyError
from common.image_set import Images
from common.prefix import split
from common.protocol import StudyProtocol
from common.scoring import pick_device
from common.seeds import seed_for
from common.study_model import build_study_classifier, seal
from simulations.audit_bound import lower_bound, provable
from simulations.canaries import Auditor, Bits, CanaryInputs, canary_records, correct_guesses

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[int, int], None]

CONFIDENCE: Final = 0.95
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


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        claimed: ε of the steps at `delta`, by the accounting.
        bound: the ε that they exceed, with probability `confidence`.
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
            needed = _guesses_against(self.claimed) / MOST_GUESSES
            return f"{self.canaries} canaries cannot refute ε = {self.claimed:.3g}; use --canaries {math.ceil(needed)}"
        # Half of the canaries that share a coordinate take part, and stand in the place of noise that is missing.
        crowd = self.sampling_rate * max(0.0, self.canaries / self.features - 1) / 2
        if crowd > (self.noise_multiplier / 3) ** 2:
            return (
                f"{self.canaries} canaries hide one another in a head of {self.features} features; use fewer, or "
                "another backbone"
            )
        return None


def audit(
    study: StudyProtocol,
    clinic: ClinicData,
    model: Classifier,
    device: torch.device,
    coins: np.random.Generator,
    *,
    canaries: int | None = None,
    on_progress: Progress | None = None,
) -> Audit:
    """Train one clinic with canaries through all rounds of a study, and bound its ε from below.

    Args:
        study: with a privacy section, its recipe resolved.
        clinic: whose patients train beside the canaries; its images are decoded already.
        model: the study's, on the device. It is trained.
        device: where to train.
        coins: decides which canaries take part, and where their gradients lie.
        canaries: how many there are; None: as many as the head has features, but from 500 to 1000.
        on_progress: called with (steps done, all steps).

    Raises:
        StudyError: the study has no privacy section or no noise, or cannot be trained privately; or too few canaries.
        DataError: the clinic's images do not name the units that the study protects.
    """
    privacy, training = privacy_of(study), plan_of(study).training
    if canaries is None:
        canaries = int(np.clip(model.head.in_features, *DEFAULT_CANARIES))
    if not FEWEST_CANARIES <= canaries <= MOST_CANARIES:
        raise StudyError(f"{canaries} canaries are not from {FEWEST_CANARIES} to {MOST_CANARIES}; take hundreds")
    steps = study.federation.rounds * privacy.steps
    mechanism = replace(training, steps=steps)
    claimed = epsilon([mechanism], privacy.delta)
    if not math.isfinite(claimed):
        raise StudyError(f"study {study.name} claims no finite epsilon at delta {privacy.delta:g}: nothing to audit")
    guesses = guesses_of(canaries, claimed, mechanism)
    included = coins.integers(0, 2, canaries).astype(bool)
    auditor = Auditor(canaries, training, model.head, coins)

    def step_seen() -> None:
        if on_progress:
            on_progress(auditor.step, steps)

    _train(study, clinic, model, device, auditor, included, step_seen)
    correct = correct_guesses(auditor.scores, included, *guesses)
    return Audit(
        claimed=claimed,
        bound=lower_bound(canaries, sum(guesses), correct, privacy.delta, CONFIDENCE),
        provable=provable(canaries, sum(guesses), privacy.delta, CONFIDENCE),
        confidence=CONFIDENCE,
        canaries=canaries,
        included=int(included.sum()),
        guesses=sum(guesses),
        correct=correct,
        features=model.head.in_features,
        steps=auditor.step,
        sampling_rate=training.sampling_rate,
        noise_multiplier=training.noise_multiplier,
        delta=privacy.delta,
    )


def audit_study(
    study: StudyProtocol,
    clinic: ClinicData,
    canaries: int | None,
    seed: int | None,
    weights_dir: Path | None,
    on_progress: Progress | None = None,
) -> Audit:
    """Audit a study on this machine's device, with its network as it stands before the first round.

    Args:
        study: with its recipe resolved.
        clinic: as for `audit`.
        canaries: as for `audit`.
        seed: fixes the coins, for tests; None: from the operating system.
        weights_dir: where pretrained weights are looked for first.
        on_progress: as for `audit`.

    Raises:
        WeightsError: the pretrained weights are missing or others than the study says.
        StudyError, DataError: as `audit`.
    """
    device = pick_device()
    model = build_study_classifier(seal(study, weights_dir), weights_dir).to(device)
    coins = secure_generator() if seed is None else np.random.default_rng(seed_for(seed, "audit"))
    return audit(study, clinic, model, device, coins, canaries=canaries, on_progress=on_progress)


def audit_table(found: Audit) -> "Table":
    """Return what an audit found, for the terminal."""
    from rich.table import Table

    table = Table(title="privacy audit: one training run with canary patients", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {
        f"claimed ε of all steps, by the accounting (δ = {found.delta:g})": f"{found.claimed:.3f}",
        f"lower bound on it ({found.confidence:.0%} confidence)": f"{found.bound:.3f}",
        "had every guess been right": f"{found.provable:.3f}",
        "canaries, and how many took part": f"{found.canaries}, {found.included}",
        "guesses, and how many were right": f"{found.guesses}, {found.correct}",
        "steps, sampling rate q, noise multiplier σ": (
            f"{found.steps}, {found.sampling_rate:g}, {found.noise_multiplier:.4g}"
        ),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def guesses_of(canaries: int, claimed: float, mechanism: Mechanism) -> tuple[int, int]:
    """Return about how many canaries to guess that they took part, and about how many that they did not.

    Together a tenth, or more where a high ε takes more to be refuted: r right guesses prove no more than about
    ln(r / 3) at 95 % confidence. The fewer, the surer each is, since noise is least at the two ends of the ranking.
    Where sampling is so rare that a canary may never be drawn, nothing can tell that it was left out, and no such guess
    is made. Nothing that is seen of the outcome enters here, as the bound demands.
    """
    wanted = max(USUAL_GUESSES * canaries, _guesses_against(claimed)) / 2
    most, q = math.floor(MOST_GUESSES * canaries / 2), mechanism.sampling_rate
    if q == 1 or -mechanism.steps * math.log1p(-q) >= claimed + MARGIN:
        each = min(math.floor(wanted), most)
        return each, each
    return min(math.floor(2 * wanted), most), 0


def _guesses_against(claimed: float) -> float:
    """Return how many right guesses refute a claimed ε with some margin."""
    return -math.log(1 - CONFIDENCE) * math.exp(min(claimed, LARGEST_EPSILON) + MARGIN)


def _train(
    study: StudyProtocol,
    clinic: ClinicData,
    model: Classifier,
    device: torch.device,
    auditor: Auditor,
    included: Bits,
    step_seen: Callable[[], None],
) -> None:
    """Train all rounds as the clinic's worker would, and let the auditor see every step."""
    privacy, images = privacy_of(study), _ordinary(clinic, study)
    size = 1 if privacy.unit == "image" else IMAGES_A_CANARY
    canary_of, records = canary_records(images.records[0], included, size)
    inputs = CanaryInputs(
        _inputs(study, clinic, images, model, device), len(images), canary_of, auditor, privacy.clipping_norm
    )
    units = privacy_units([*images.records, *records], privacy.unit)
    # Of half the canaries: the coins must reach the auditor through the steps alone.
    own = len(set(privacy_units(images.records, privacy.unit)))
    expected = max(own + len(included) // 2, 1)

    def seen() -> None:
        auditor.observe(privacy.sampling_rate * expected / privacy.clipping_norm)
        step_seen()

    for round_number in range(1, study.federation.rounds + 1):
        trainer = PrivateTrainer(model, study, privacy, device)
        trainer.optimizer = _WatchedOptimizer(list(trainer.parameters.values()), study, seen)
        trainer.train(
            inputs,
            np.concatenate([images.targets, np.zeros(len(records), np.float32)]),
            units,
            expected_units=expected,
            noise_multiplier=auditor.mechanism.noise_multiplier,
            round_number=round_number,
        )


class _WatchedOptimizer(LocalOptimizer):
    """The study's optimiser; tells whenever a noisy mean has arrived, before it does anything with it."""

    def __init__(self, parameters: list[torch.nn.Parameter], study: StudyProtocol, seen: Callable[[], None]) -> None:
        super().__init__(parameters, study)
        self._seen = seen

    def step(self, round_number: int, step: int, steps: int) -> None:
        """See `LocalOptimizer.step`."""
        self._seen()
        super().step(round_number, step, steps)


def _ordinary(clinic: ClinicData, study: StudyProtocol) -> Images:
    """Return the training images of some of a clinic's units."""
    units = privacy_units(clinic.train, privacy_of(study).unit)
    chosen = set(list(dict.fromkeys(units))[:ORDINARY_UNITS])
    records = tuple(record for record, unit in zip(clinic.train, units, strict=True) if unit in chosen)
    return replace(clinic, train=records).load("train")


def _inputs(
    study: StudyProtocol, clinic: ClinicData, images: Images, model: Classifier, device: torch.device
) -> Inputs:
    """Return what the clinic's worker would run the network on."""
    size, parts = study.data.image_size, split(model)
    if parts is not None:
        cache, views = FeatureCache(clinic.cache / "features"), privacy_of(study).views
        features = cache.features(model, images, size, device, views=views)
        if features is not None:
            return CachedInputs(parts, features, images, study.model.metadata, device)
    generator = torch.Generator().manual_seed(study.seed) if study.training.augment else None
    return PixelInputs(model, images, size, generator, device)
