"""What AUROC a private study of a head on a neck can expect, from public quantities alone, before anything is spent.

The features of a public run are whitened: over its images they have mean 0 and covariance 1/d each
(`melfed.common.model.neck.whitening`). Taken as two normal classes of one covariance S, its head h is Fisher's, so that
the class means differ by S h. From that follow the moments that so many patients would have; noise of the study's own
strength is added to them, some times, a head is solved as the study's would be, and judged by the same two classes. At
clinics with other cameras than the public archive's it will be less: what is not to be had here is not to be had there.

Of rounds of training, the head is that of the same two classes as far as the steps get, with the noise that they leave
(`melfed.common.study.head_steps`).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np

from melfed.common.errors import DataError, StudyError
from melfed.common.model.weights import run_metadata
from melfed.common.moments.head import binormal_auroc
from melfed.common.moments.noisy_moments import CLASSES, SCALE, SENSITIVITY, NoisyMoments, noise_variance, triangle
from melfed.common.moments.solvers import SOLVERS, Wanted, solve
from melfed.common.study.build import study_weights
from melfed.common.study.evaluation_noise import noised_attributes
from melfed.common.study.head_steps import LOGITS, HeadSteps, Room, reached
from melfed.common.study.moments_noise import START_SHARE, learning_mu, moments_multiplier
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from melfed.common.tensors import load_tensors

USEFUL: Final = 0.25
"""Of what the features tell beyond guessing: where the noise leaves less, there is nothing to be had."""
PREVALENCE: Final = 0.1
"""Share of melanomas that is assumed."""
DRAWS: Final = 10


@dataclass(frozen=True)
class Expected:
    """AUROC to be expected.

    Attributes:
        auroc: with the study's noise, of so many patients.
        best: of the same features without noise.
    """

    auroc: float
    best: float


def expected_auroc(study: StudyProtocol, clinics: int, weights_dir: Path | None = None) -> Expected | None:
    """Return the AUROC to be expected of a private study; None where nothing is known of it.

    That is where its public run has no head on its neck, or where more than the head trains, or by other steps than
    single ones of clipped gradients of everybody.

    Args:
        study: whose `privacy.patients` says how many patients a clinic has, about.
        clinics: how many take part.
        weights_dir: where the public run is looked for.

    Raises:
        WeightsError: the public run is not there.
    """
    privacy = study.privacy
    if privacy is None or not study.model.neck or not study.federation.with_clinics or not _foreseen(study, privacy):
        return None
    file = study_weights(study, weights_dir)
    if run_metadata(file) is None:
        return None
    head, features = load_tensors(file.path)[0].get("head.weight"), study.model.neck or 0
    if head is None or head.shape != (1, features) or not head.any():
        return None
    direction = head[0].astype(np.float64)
    if study.federation.mode != "one_round":
        return _of_rounds(study, privacy, clinics, float(direction @ direction) / features)
    difference = direction / features
    sigma = math.sqrt(clinics) * moments_multiplier(privacy, subgroups=bool(noised_attributes(study)))
    best = binormal_auroc(float(direction @ difference), 2 * float(direction @ direction) / features)
    patients = round(clinics * privacy.patients * (1 - study.partition.validation - study.partition.test))
    random, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        moments = _moments(difference, patients, sigma, random)
        try:
            solved = solve(next(iter(SOLVERS)), moments, Wanted(positive_weight=study.training.positive_weight)).weight
        except DataError:
            found.append(0.5)
            continue
        found.append(binormal_auroc(float(solved @ difference), 2 * float(solved @ solved) / features))
    return Expected(mean(found), best)


def _foreseen(study: StudyProtocol, privacy: PrivacySpec) -> bool:
    """Tell whether a study's steps are those that this module knows."""
    if study.federation.mode == "one_round":
        return True
    plain = study.training.optimizer == "sgd" and study.federation.algorithm in {"fedavg", "fedavgm"}
    return plain and study.model.train == "head" and (privacy.steps, privacy.sampling_rate) == (1, 1.0)


def _of_rounds(study: StudyProtocol, privacy: PrivacySpec, clinics: int, squared: float) -> Expected:
    """Return what rounds give, for a public head whose logits have this variance."""
    federation = study.federation
    share = START_SHARE if federation.asks_for_moments else 0.0
    patients = max(1, round(privacy.patients * (1 - study.partition.validation - study.partition.test)))
    mu = math.inf if privacy.noise_multiplier == 0 else learning_mu(privacy, subgroups=bool(noised_attributes(study)))
    if privacy.noise_multiplier:
        mu = math.sqrt(federation.rounds / (1 - share)) / privacy.noise_multiplier
    momentum = federation.server_momentum if federation.algorithm == "fedavgm" else 0.0
    steps = HeadSteps(federation.rounds, study.training.learning_rate, momentum, federation.tail_average, math.nan)
    head = reached(Room(study.head_features, patients, clinics, min(mu, 1e9), share), steps)
    best = binormal_auroc(squared, 2 * squared)
    # The head that is sought has logits of LOGITS; the noise is as long along every feature.
    wanted = head.part * LOGITS
    told = wanted / math.hypot(wanted, head.noise) if wanted or head.noise else 0.0
    return Expected(binormal_auroc(told * squared, 2 * squared), best)


def require_useful(study: StudyProtocol, clinics: int, weights_dir: Path | None = None) -> None:
    """Refuse a private study that has too few patients for its ε.

    Raises:
        StudyError: in one line, with the AUROC to be expected.
        WeightsError: as `expected_auroc`.
    """
    found = expected_auroc(study, clinics, weights_dir)
    if found is None or study.privacy is None:
        return
    if found.auroc - 0.5 < USEFUL * (found.best - 0.5):
        strength = f"ε {study.privacy.epsilon:g}" if study.privacy.epsilon else "this noise"
        many = f"{study.privacy.patients:,} {study.privacy.unit}s a clinic (privacy.patients)"
        raise StudyError(
            f"study {study.name}: {many} at {strength} allow nothing: with {clinics} clinics an AUROC of "
            f"{found.auroc:.2f} is to be expected of public features that have {found.best:.2f} without noise; state "
            "more patients if there are, a larger privacy.epsilon, or fewer features (model.neck)"
        )


def _moments(difference: np.ndarray, patients: int, sigma: float, random: np.random.Generator) -> NoisyMoments:
    """Return moments of two normal classes with covariance 1/d, as they would leave with noise."""
    d = len(difference)
    rows, columns, factors = triangle(d)
    released = {}
    for name, share, place in zip(CLASSES, (PREVALENCE, 1 - PREVALENCE), (1 - PREVALENCE, -PREVALENCE), strict=True):
        units, average = share * patients, place * difference
        second = np.eye(d) / d + np.outer(average, average)
        exact = units * np.concatenate([[1.0], average, second[rows, columns] * factors])
        noised = exact * SCALE + random.normal(0, sigma * SENSITIVITY, exact.size)
        released[name] = np.rint(noised).astype(np.int64)
    return NoisyMoments(noise_variance=noise_variance(sigma), **released)
