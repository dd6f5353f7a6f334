"""Necks on the pooled features of one trunk, in NumPy: other numbers of features, weights of images, and scales."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from melfed.common.data.records import LesionRecord
from melfed.common.errors import StudyError
from melfed.simulations.benchmarks.public_start.training import BALANCES, Balance, shares
from melfed.simulations.fit_neck import HEAD_DECAY

FloatArray = npt.NDArray[np.float64]
Order = Literal["variance", "class"]
HeadOf = Literal["labels", "network"]
ORDERS: Final[tuple[Order, ...]] = ("variance", "class")
HEADS: Final[tuple[HeadOf, ...]] = ("labels", "network")
CHOSEN_FROM: Final = 256
"""Leading components among which those are looked for that tell the classes."""


@dataclass(frozen=True)
class NeckWay:
    """How a neck is made.

    Attributes:
        features: how many there are.
        shrinkage: added to each component's variance before whitening, in units of their mean; 0: whitened.
        balance: which images count equally together in its statistics, and in the public head behind it.
        blind: whether the directions are left out along which sources differ within a class, as LEACE does
            (Belrose et al., arXiv 2306.03819, theorem 4.2: in whitened space a projection).
        order: components with the largest variance, or those of `CHOSEN_FROM` that tell classes best within sources.
        head: what the public head is fitted to: the labels of the images, or the network's own logits.
    """

    features: int = 64
    shrinkage: float = 0.0
    balance: Balance = "none"
    blind: bool = False
    order: Order = "variance"
    head: HeadOf = "labels"

    @classmethod
    def read(cls, text: str) -> "NeckWay":
        """Read `KEY=VALUE,KEY=VALUE`. Raises StudyError.

        >>> NeckWay.read("features=32,balance=source").features
        32
        """
        names = {field.name for field in fields(cls)}
        stated = dict(item.partition("=")[::2] for item in text.split(",") if item)
        try:
            if not stated.keys() <= names:
                raise ValueError("unknown key")
            way = cls(
                int(stated.get("features", cls.features)),
                float(stated.get("shrinkage", cls.shrinkage)),
                next(b for b in BALANCES if b == stated.get("balance", cls.balance)),
                {"true": True, "false": False}[stated.get("blind", "false")],
                next(order for order in ORDERS if order == stated.get("order", cls.order)),
                next(head for head in HEADS if head == stated.get("head", cls.head)),
            )
            if way.features < 1 or way.shrinkage < 0 or (way.blind and way.shrinkage):
                raise ValueError("out of range")
        except (ValueError, KeyError, StopIteration):
            raise StudyError(
                f"--neck {text}: write features=N,shrinkage=S,balance={'|'.join(BALANCES)},blind=true|false,"
                "order=variance|class,head=labels|network; blind goes with shrinkage 0"
            ) from None
        return way

    def __str__(self) -> str:
        """Say what is not as it is by default, after the number of features."""
        rest = [
            f"{field.name}={str(getattr(self, field.name)).lower()}"
            for field in fields(self)
            if field.name != "features" and getattr(self, field.name) != field.default
        ]
        return ", ".join([str(self.features), *rest])


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The principal components of some images' standardised features.

    Attributes:
        mean: shape (inputs,).
        scale: of each input, shape (inputs,).
        variances: of the components, the largest first.
        components: shape (inputs, components).
        weights: of the images, with a sum of 1, shape (n,).
    """

    mean: FloatArray
    scale: FloatArray
    variances: FloatArray
    components: FloatArray
    weights: FloatArray

    @classmethod
    def of(cls, pooled: npt.NDArray[np.float32], weights: FloatArray, most: int) -> "Spectrum":
        """Return at most so many leading components of weighted rows, as `melfed.common.model.neck.whitening` has."""
        from scipy.linalg import eigh

        values = pooled.astype(np.float64)
        mean = weights @ values
        deviation = np.sqrt(weights @ (values - mean) ** 2)
        scale = np.where(deviation > 1e-8, 1 / np.maximum(deviation, 1e-8), 0.0)
        standard = (values - mean) * scale * np.sqrt(weights)[:, None]
        inputs = pooled.shape[1]
        first = max(0, inputs - most)
        variances, components = eigh(standard.T @ standard, subset_by_index=(first, inputs - 1))
        return cls(mean, scale, variances[::-1], components[:, ::-1], weights)

    def scores(self, pooled: npt.NDArray[np.float32], components: int) -> FloatArray:
        """Return leading components of some images, each of unit variance, shape (n, components)."""
        return np.asarray(((pooled - self.mean) * self.scale) @ self.whitener(components))

    def whitener(self, components: int) -> FloatArray:
        """Return what brings standardised features to leading components of unit variance."""
        sizes = np.sqrt(np.maximum(self.variances[:components], self.variances[0] * 1e-6))
        return np.asarray(self.components[:, :components] / sizes)


@dataclass(frozen=True, eq=False)
class FittedNeck:
    """A neck, and the public head behind it.

    Attributes:
        mean: shape (inputs,).
        projection: shape (inputs, features).
        head: with the bias last, shape (features + 1,).
    """

    mean: FloatArray
    projection: FloatArray
    head: FloatArray

    def features(self, pooled: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return what the head sees, shape (n, features)."""
        return ((pooled - self.mean) @ self.projection).astype(np.float32)

    def logits(self, pooled: npt.NDArray[np.float32]) -> FloatArray:
        """Return the public head's logits, shape (n,)."""
        return np.asarray(self.features(pooled).astype(np.float64) @ self.head[:-1] + self.head[-1])


def spectrum_of(
    pooled: npt.NDArray[np.float32], records: Sequence[LesionRecord], balance: Balance, most: int
) -> Spectrum:
    """Return the components of a start's own images, of which as many are kept as necks need."""
    return Spectrum.of(pooled, shares(records, balance), most)


def needed(ways: Sequence[NeckWay], records: Sequence[LesionRecord]) -> int:
    """Return how many components these ways look at, at most."""
    sources = len({record.source for record in records})
    return max(max(way.features + sources, CHOSEN_FROM if way.order == "class" else 0) for way in ways)


def fitted_neck(
    pooled: npt.NDArray[np.float32],
    logits: FloatArray,
    records: Sequence[LesionRecord],
    spectrum: Spectrum,
    way: NeckWay,
    positive_weight: float,
) -> FittedNeck:
    """Return a neck of a start's own images, and the head behind it.

    Args:
        pooled: of those images, shape (n, inputs).
        logits: the trained network's, shape (n,).
        records: the images'.
        spectrum: of `pooled`.
        way: how the neck is made.
        positive_weight: of a melanoma, where the head is fitted to labels.

    Raises:
        StudyError: it wants more features than there are components.
    """
    if way.features > len(spectrum.variances):
        raise StudyError(f"--neck {way}: the backbone gives {len(spectrum.variances)} features at most")
    projection = spectrum.scale[:, None] * _turned(pooled, records, spectrum, way)
    features = np.asarray((pooled - spectrum.mean) @ projection)
    if way.head == "network":
        return FittedNeck(spectrum.mean, projection, fitted_head(features, logits, spectrum.weights))
    target = np.array([record.target for record in records])
    weights = spectrum.weights * len(records) * np.where(target == 1, positive_weight, 1.0)
    return FittedNeck(spectrum.mean, projection, labels_head(features, target, weights))


def fitted_head(features: FloatArray, logits: FloatArray, weights: FloatArray) -> FloatArray:
    """Return the head, shape (features + 1,), whose logits come nearest those of the network, by weighted squares."""
    rows = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    root = np.sqrt(weights)
    return np.asarray(np.linalg.lstsq(rows * root[:, None], logits * root, rcond=None)[0])


def labels_head(features: FloatArray, target: npt.NDArray[np.int64], weights: FloatArray) -> FloatArray:
    """Return the head of penalised logistic regression on weighted images, shape (features + 1,)."""
    from sklearn.linear_model import LogisticRegression

    inverse = features.shape[1] / (HEAD_DECAY * len(features))
    fitted = LogisticRegression(C=inverse, max_iter=1000).fit(features, target, sample_weight=weights)
    return np.append(fitted.coef_[0], fitted.intercept_[0])


def _turned(
    pooled: npt.NDArray[np.float32], records: Sequence[LesionRecord], spectrum: Spectrum, way: NeckWay
) -> FloatArray:
    """Return the map from standardised features to the head's, whose images have a mean squared norm of 1."""
    number = way.features
    if way.blind or way.order == "class":
        most = min(CHOSEN_FROM if way.order == "class" else needed([way], records), len(spectrum.variances))
        scores = spectrum.scores(pooled, most)
        turn = blinded(scores, records) if way.blind else np.eye(most)
        if way.order == "class":
            told = class_effects(scores @ turn, records)
            turn = turn[:, np.argsort(-told, kind="stable")]
        return np.asarray(spectrum.whitener(most) @ turn[:, :number] / np.sqrt(number))
    leading = spectrum.variances[:number]
    left = leading / (leading + way.shrinkage * leading.mean())
    return np.asarray(spectrum.whitener(number) * np.sqrt(left / left.sum()))


def blinded(scores: FloatArray, records: Sequence[LesionRecord]) -> FloatArray:
    """Return an orthonormal basis without the directions along which sources' means differ, within a class.

    Args:
        scores: whitened, shape (n, m).
        records: the images'.

    Returns:
        Shape (m, m - r) for r directions, the leading components' share first.
    """
    source = np.array([record.source for record in records])
    target = np.array([record.target for record in records])
    within = scores.copy()
    for kind in np.unique(target):
        within[target == kind] -= scores[target == kind].mean(axis=0)
    means = np.stack([within[source == name].mean(axis=0) for name in np.unique(source)])
    _, sizes, directions = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    gone = directions[sizes > 1e-9 * max(1.0, float(sizes.max()))]
    # Gram-Schmidt, the directions that go first, then the leading components one after the other.
    axes = np.eye(scores.shape[1])[:, : scores.shape[1] - len(gone)]
    basis, _ = np.linalg.qr(np.concatenate([gone.T, axes], axis=1))
    return np.asarray(basis[:, len(gone) :])


def class_effects(scores: FloatArray, records: Sequence[LesionRecord]) -> FloatArray:
    """Return how far apart the classes' means are within sources, over its standard error, shape (m,)."""
    source = np.array([record.source for record in records])
    target = np.array([record.target for record in records])
    total, information = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    for name in np.unique(source):
        one, zero = scores[(source == name) & (target == 1)], scores[(source == name) & (target == 0)]
        if min(len(one), len(zero)) > 1:
            precision = 1 / (one.var(axis=0) / len(one) + zero.var(axis=0) / len(zero) + 1e-12)
            total += precision * (one.mean(axis=0) - zero.mean(axis=0))
            information += precision
    return np.asarray(np.abs(total) / np.sqrt(np.maximum(information, 1e-12)))
