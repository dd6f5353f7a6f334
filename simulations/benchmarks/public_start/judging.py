"""How good a start is for a source that it has not seen: itself, as a private head's, and how well it tells sources."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Final

import numpy as np
import numpy.typing as npt

from melfed.common.data.dataset import Images
from melfed.common.data.records import LesionRecord, group_ids
from melfed.common.study.build import LONGEST_START
from melfed.common.study.head_steps import Room, best_steps
from melfed.common.study.moments_noise import learning_mu
from melfed.common.study.protocol import PrivacySpec
from melfed.simulations.benchmarks.private_heads import Images as Rows
from melfed.simulations.benchmarks.private_heads import Way, trained
from melfed.simulations.benchmarks.public_start.necks import FittedNeck
from melfed.simulations.benchmarks.public_start.training import Start

FloatArray = npt.NDArray[np.float64]
FOLDS: Final = 3
TOLD_FOLDS: Final = 5


@dataclass(frozen=True)
class Federation:
    """The private federation whose noise a left-out source's head gets.

    Attributes:
        patients: at each clinic.
        clinics: how many.
        epsilon: ε; infinity: the steps of ε 8, without noise.
        delta: δ.
    """

    patients: int
    clinics: int
    epsilon: float
    delta: float = 1e-5

    def __str__(self) -> str:
        """Name it in tables."""
        return f"{self.patients} at {'∞' if math.isinf(self.epsilon) else f'{self.epsilon:g}'}"

    def room(self, features: int) -> Room:
        """Return what it leaves to the steps of a head."""
        epsilon = 8.0 if math.isinf(self.epsilon) else self.epsilon
        spec = PrivacySpec(
            unit="lesion", epsilon=epsilon, delta=self.delta, patients=self.patients, evaluation="public"
        )
        return Room(features, self.patients, self.clinics, learning_mu(spec))


def shortened(head: FloatArray) -> FloatArray:
    """Return the head that a private study begins at, of a public run's (`melfed.common.study.build`)."""
    spread = float(np.linalg.norm(head[:-1])) / math.sqrt(len(head) - 1)
    return head * (min(1.0, LONGEST_START / spread) if spread > 0 else 1.0)


def auroc(targets: npt.NDArray[np.generic], scores: FloatArray) -> float:
    """Return the area under the ROC curve; not a number where one class alone is there."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(targets, scores)) if len(np.unique(targets)) > 1 else math.nan


def private_auroc(
    neck: FittedNeck,
    pooled: npt.NDArray[np.float32],
    records: Sequence[LesionRecord],
    federation: Federation,
    positive_weight: float,
    draws: int,
    seed: int,
) -> float:
    """Return the AUROC of a private head on a source's own test parts: the mean over parts and draws of the noise.

    The source's groups are dealt to `FOLDS` parts; each in turn is the test part, and the others train. Clinics weigh
    by their units, so it is of no account how the others are divided among clinics: they stand as one, with the noise
    that the mean of all clinics of the federation has.
    """
    features, targets = neck.features(pooled), np.array([record.target for record in records], np.float32)
    groups, room = np.array(group_ids(records)), federation.room(features.shape[1])
    steps, start = best_steps(room), shortened(neck.head)
    found = list[float]()
    for number, (train, test) in enumerate(_parts(records, seed)):
        rows = Rows.of(features[train], targets[train], groups[train].tolist())
        people = room.patients * math.sqrt(room.clinics)
        way = Way(math.inf if math.isinf(federation.epsilon) else room.mu * people / len(rows.starts))
        for draw in range(1 if math.isinf(federation.epsilon) else draws):
            random = np.random.default_rng((seed, number, draw))
            head = trained([rows], start, steps, way, positive_weight, random)
            found.append(auroc(targets[test], features[test] @ head[:-1]))
    return mean(found)


def _parts(records: Sequence[LesionRecord], seed: int) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Yield which images train and which test, for each of `FOLDS` parts of the groups, with classes in each."""
    from sklearn.model_selection import StratifiedGroupKFold

    targets, groups = [record.target for record in records], group_ids(records)
    dealt = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for _, index in dealt.split(np.zeros(len(records)), targets, groups):
        test = np.zeros(len(records), np.bool_)
        test[index] = True
        yield ~test, test


@dataclass(frozen=True)
class Told:
    """How well a linear classifier of features tells sources, cross-validated.

    Attributes:
        among: balanced accuracy among the sources that the start learnt from; chance is 1 over their number.
        chance: that.
        left_out: AUROC of the left-out source against images of the others that were kept apart; chance is 0.5.
    """

    among: float
    chance: float
    left_out: float


NOT_TOLD: Final = Told(math.nan, math.nan, math.nan)


def source_told(neck: FittedNeck, start: Start, images: Images) -> Told:
    """Return how well a neck's features tell sources."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    features = neck.features(start.pooled) * math.sqrt(neck.projection.shape[1])
    source = np.array([record.source for record in images.records])
    folds = StratifiedKFold(TOLD_FOLDS, shuffle=True, random_state=0)
    mine, theirs = start.trained, start.left_out | ~start.trained
    among = cross_val_predict(_classifier(), features[mine], source[mine], cv=folds)
    margin = cross_val_predict(
        _classifier(), features[theirs], start.left_out[theirs], cv=folds, method="decision_function"
    )
    return Told(
        float(balanced_accuracy_score(source[mine], among)),
        1 / len(np.unique(source[mine])),
        auroc(start.left_out[theirs], margin),
    )


def _classifier() -> object:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=0.1, max_iter=300, class_weight="balanced")
