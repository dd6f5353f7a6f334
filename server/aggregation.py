"""Aggregation: a streaming weighted mean, and the server optimisers that turn it into the next global model.

Flower's own strategies hold every reply of a round; these hold one sum, so memory is O(model). The optimisers follow
Reddi et al., "Adaptive federated optimization" (arXiv 2003.00295), algorithm 2, and are tested against Flower's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from common.errors import QuorumError
from common.protocol import FederationSpec
from common.tensors import Array, Tensors

Float64 = npt.NDArray[np.float64]


@dataclass
class WeightedMean:
    """A weighted mean over replies, added one at a time.

    Sums are kept as float64 pairs (value and rounding error, Knuth's two-sum), so that the mean, once rounded to
    float32, does not depend on the order in which replies arrive.
    """

    weight: float = 0.0
    _sum: dict[str, Float64] = field(default_factory=dict)
    _error: dict[str, Float64] = field(default_factory=dict)

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add one reply with its weight (> 0), for example its number of images."""
        if not self._sum:
            self._sum = {name: np.zeros(tensor.shape) for name, tensor in tensors.items()}
            self._error = {name: np.zeros(tensor.shape) for name, tensor in tensors.items()}
        self.weight += weight
        for name, tensor in tensors.items():
            term, total = tensor.astype(np.float64) * weight, self._sum[name]
            result = total + term
            shadow = result - total
            self._error[name] += (total - (result - shadow)) + (term - shadow)
            self._sum[name] = result

    def mean(self) -> Tensors:
        """Return the mean as float32.

        Raises:
            QuorumError: nothing was added.
        """
        if self.weight <= 0:
            raise QuorumError("no clinic's update could be used, so there is nothing to average")
        return {n: ((self._sum[n] + self._error[n]) / self.weight).astype(np.float32) for n in self._sum}


class ServerOptimizer:
    """Turns a round's mean into the next global model. FedAvg and FedProx: the mean itself."""

    def __init__(self, spec: FederationSpec, state: Mapping[str, npt.NDArray[np.generic]] | None = None) -> None:
        self.spec = spec
        self.state: Tensors = {name: np.asarray(tensor, np.float32) for name, tensor in (state or {}).items()}

    def step(self, model: Tensors, mean: Tensors) -> Tensors:
        """Return the next model from the current one and the clinics' mean (same names and shapes)."""
        if self.spec.algorithm in ("fedavg", "fedprox"):
            return mean
        return {name: self._step(name, model[name], mean[name]) for name in model}

    def _step(self, name: str, model: Array, mean: Array) -> Array:
        spec, one, delta = self.spec, np.float32(1), mean - model
        rate, tau = np.float32(spec.server_learning_rate), np.float32(spec.server_tau)
        beta1, beta2 = np.float32(spec.server_momentum), np.float32(spec.server_beta2)
        momentum = beta1 * self.state.get(f"momentum/{name}", np.zeros_like(model))
        if spec.algorithm == "fedavgm":
            self.state[f"momentum/{name}"] = momentum + delta
            return model + rate * self.state[f"momentum/{name}"]
        momentum = momentum + (one - beta1) * delta
        second = self.state.get(f"second/{name}", np.zeros_like(model))
        square = delta * delta
        if spec.algorithm == "fedadam":
            second = beta2 * second + (one - beta2) * square
        else:
            second = second - (one - beta2) * square * np.sign(second - square)
        self.state[f"momentum/{name}"], self.state[f"second/{name}"] = momentum, second
        return model + rate * momentum / (np.sqrt(second) + tau)
