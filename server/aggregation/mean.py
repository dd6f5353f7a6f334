"""Aggregation: a round's updates become one, and the server optimisers turn that into the next global model.

Flower's own strategies hold every reply of a round; the weighted mean holds one sum, so memory is O(model). Where the
study asks for a robust mean (`melfed.server.aggregation.robust`), all updates of a round are held. The optimisers are
those of Hsu et al. (arXiv 1909.06335) for fedavgm, and of Reddi et al., "Adaptive federated optimization" (arXiv
2003.00295), algorithm 2, for fedadam and fedyogi: no bias correction, and a second moment that starts at τ². Flower's
start at zero, and its FedAdam corrects as Adam does; they are tested against Flower's where both agree, and against a
plain loop.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from melfed.common.errors import QuorumError
from melfed.common.study.protocol import FederationSpec
from melfed.common.tensors import Array, Tensors
from melfed.server.aggregation import robust

Float64 = npt.NDArray[np.float64]

DIGIT_BITS = 36
# Float32 values times whole weights under 2^24 lie between 2^-149 and 2^152, so these digits hold all of their bits.
HIGHEST_DIGIT, LOWEST_DIGIT = 4, -5


@dataclass
class WeightedMean:
    """A weighted mean over replies, added one at a time; not one bit of it depends on the order in which they arrive.

    Sums are exact. Each product of value and weight is cut into digits of 36 bits, the k-th a multiple of 2^(36 k), and
    the digits are summed place by place: up to 2^18 replies, such a sum is a multiple too small for float64 to round.
    Of the ten places a network's values need two or three, and only these are kept. The idea of fixed places is that of
    Demmel and Nguyen, "Fast reproducible floating-point summation" (2013).

    >>> mean = WeightedMean()
    >>> mean.add({"head": np.array([1.0, 0.0], np.float32)}, weight=3)
    >>> mean.add({"head": np.array([0.0, 2.0], np.float32)}, weight=1)
    >>> mean.mean()["head"].tolist()
    [0.75, 0.5]
    """

    weight: float = 0.0
    _sums: dict[str, dict[int, Float64]] = field(default_factory=dict)
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add one reply with its weight (whole and > 0), such as the number of images that it was trained on."""
        self.weight += weight
        for name, tensor in tensors.items():
            self._shapes[name] = tensor.shape
            sums = self._sums.setdefault(name, {})
            for place, digit in _digits(tensor.astype(np.float64) * weight):
                sums[place] = sums[place] + digit if place in sums else digit

    def mean(self) -> Tensors:
        """Return the mean as float32.

        Raises:
            QuorumError: nothing was added.
        """
        if self.weight <= 0:
            raise QuorumError("no clinic's update could be used, so there is nothing to average")
        return {name: np.asarray(self._total(name) / self.weight, np.float32) for name in self._shapes}

    def _total(self, name: str) -> Float64:
        total = np.zeros(self._shapes[name])
        for _, digits in sorted(self._sums[name].items(), reverse=True):
            total += digits
        return total


class RoundMean:
    """The mean, of the kind that the study asks for, over a round's updates; whatever the order in which they come."""

    def __init__(self, spec: FederationSpec, model: Tensors) -> None:
        self.spec, self.model = spec, model
        self._mean = WeightedMean()
        self._updates: dict[str, Tensors] = {}
        self.weight = 0.0

    def add(self, clinic: str, tensors: Tensors, weight: float) -> None:
        """Add one clinic's update, shortened first where the study says so (`federation.clip_update_norm`)."""
        self.weight += weight
        if self.spec.clip_update_norm is not None:
            tensors = robust.clipped(tensors, self.model, self.spec.clip_update_norm)
        if self.spec.robust == "none":
            self._mean.add(tensors, weight)
        else:
            # Robust means go by no weight: a clinic that claims many images would lead them astray.
            self._updates[clinic] = tensors

    def mean(self) -> Tensors:
        """Return the mean as float32.

        Raises:
            QuorumError: there are fewer updates than this kind of mean needs.
        """
        if self.spec.robust == "none":
            return self._mean.mean()
        needed = robust.replies_needed(self.spec)
        if len(self._updates) < needed:
            raise QuorumError(f"{self.spec.robust} needs {needed} updates, {len(self._updates)} came")
        # By name, so that not even a tie is decided by who came first.
        updates = [self._updates[name] for name in sorted(self._updates)]
        if self.spec.robust == "trimmed_mean":
            return robust.trimmed_mean(updates, self.spec.robust_trim)
        if self.spec.robust == "median":
            return robust.median(updates)
        order = robust.krum_order(updates, self.spec.robust_byzantine)
        kept = 1 if self.spec.robust == "krum" else len(updates) - self.spec.robust_byzantine
        mean = WeightedMean()
        for index in order[:kept]:
            mean.add(updates[index], 1)
        return mean.mean()


def _digits(rest: Float64) -> Iterator[tuple[int, Float64]]:
    """Yield the digits that add up to the values, with their places; the highest first, and none that is zero."""
    largest = np.abs(rest).max(initial=0)
    for place in range(HIGHEST_DIGIT, LOWEST_DIGIT - 1, -1):
        unit = 2.0 ** (DIGIT_BITS * place)
        if largest > unit / 2:
            digit = np.rint(rest / unit) * unit
            yield place, digit
            rest = rest - digit
            largest = np.abs(rest).max(initial=0)


class ServerOptimizer:
    """Turns a round's mean into the next global model. FedAvg and FedProx: the mean itself.

    >>> optimizer = ServerOptimizer(FederationSpec(algorithm="fedavgm", server_momentum=0.5))
    >>> model = optimizer.step({"head": np.zeros(1, np.float32)}, {"head": np.ones(1, np.float32)})
    >>> model = optimizer.step(model, {"head": model["head"] + 1})
    >>> model["head"].tolist()
    [2.5]
    """

    def __init__(self, spec: FederationSpec, state: Mapping[str, npt.NDArray[np.generic]] | None = None) -> None:
        self.spec = spec
        self.state: Tensors = {name: np.asarray(tensor, np.float32) for name, tensor in (state or {}).items()}

    def step(self, model: Tensors, mean: Tensors) -> Tensors:
        """Return the next model from the current one and the clinics' mean (same names and shapes)."""
        if self.spec.algorithm in ("fedavg", "fedprox"):
            return mean
        with np.errstate(over="ignore", invalid="ignore"):  # the round loop refuses what is not finite
            return {name: self._step(name, model[name], mean[name]) for name in model}

    def _step(self, name: str, model: Array, mean: Array) -> Array:
        spec, one, delta = self.spec, np.float32(1), mean - model
        rate, tau = np.float32(spec.server_rate), np.float32(spec.server_tau)
        beta1, beta2 = np.float32(spec.server_momentum), np.float32(spec.server_beta2)
        zero: Array = np.zeros(model.shape, np.float32)
        momentum: Array = beta1 * self.state.get(f"momentum/{name}", zero)
        if spec.algorithm == "fedavgm":
            self.state[f"momentum/{name}"] = momentum + delta
            return model + rate * self.state[f"momentum/{name}"]
        momentum = momentum + (one - beta1) * delta
        second: Array = self.state.get(f"second/{name}", zero + tau * tau)
        square: Array = delta * delta
        if spec.algorithm == "fedadam":
            second = beta2 * second + (one - beta2) * square
        else:
            second = second - (one - beta2) * square * np.sign(second - square)
        self.state[f"momentum/{name}"], self.state[f"second/{name}"] = momentum, second
        root: Array = np.sqrt(second)
        return model + rate * momentum / (root + tau)


def tail_average(spec: FederationSpec, round_number: int, average: Tensors, model: Tensors) -> Tensors:
    """Return the mean of the global models of the last rounds, up to this one.

    Averaging the last iterates takes out much of the noise that private training leaves in each of them, and costs no
    privacy (Polyak & Juditsky 1992; for DP-SGD: De et al., arXiv 2204.13650).

    Args:
        spec: says which part of the rounds is averaged.
        round_number: 1-based.
        average: what this returned for the round before; empty at first.
        model: the global model after the round.

    Returns:
        The new mean; empty before the first round that counts.
    """
    first = spec.rounds - round(spec.tail_average * spec.rounds) + 1
    if round_number < first:
        return {}
    if not average:
        return dict(model)
    share = np.float32(1 / (round_number - first + 1))
    return {name: (mean + (model[name] - mean) * share).astype(np.float32) for name, mean in average.items()}
