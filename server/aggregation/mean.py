"""Aggregation: a round's updates become one, and the server optimiser turns that into the next global model.

Flower's own strategies hold every reply of a round; the weighted mean holds one sum of whole numbers, so memory is
O(model). Where the study asks for a robust mean (`melfed.common.aggregation`), all updates of a round are held.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from melfed.common.aggregation import RULES
from melfed.common.aggregation.fixed_point import fixed_point_for
from melfed.common.aggregation.weighted_mean import WeightedMean
from melfed.common.errors import QuorumError
from melfed.common.optimizers import OPTIMIZERS
from melfed.common.study.protocol import FederationSpec
from melfed.common.tensors import Tensors
from melfed.server.aggregation import robust


class RoundMean:
    """The mean, of the kind that the study asks for, over a round's updates; whatever the order in which they come."""

    def __init__(self, spec: FederationSpec, model: Tensors, weight: int) -> None:
        """Begin.

        Args:
            spec: says which mean.
            model: the global model that the updates begin from.
            weight: the largest sum that the updates' weights may have.
        """
        self.spec, self.model = spec, model
        self._mean = WeightedMean(fixed_point_for(model, max(weight, 1), spec.clip_update_norm or 0.0))
        self._updates: dict[str, Tensors] = {}
        self.weight = 0.0

    def check(self, tensors: Tensors) -> None:
        """Check that an update can be added. Raises TensorError, which names the tensor that is too large."""
        # Robust means take any value, and what is shortened fits.
        if self.spec.robust == "none" and self.spec.clip_update_norm is None:
            self._mean.fixed_point.check(tensors)

    def add(self, clinic: str, tensors: Tensors, weight: float) -> None:
        """Add one clinic's update, shortened first where the study says so (`federation.clip_update_norm`).

        Raises:
            TensorError: as `check`.
            DataError: the weights' sum is larger than was said.
        """
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
        return RULES[self.spec.robust].mean(updates, self.spec)


class ServerOptimizer:
    """Turns a round's mean into the next global model, as one of `melfed.common.optimizers` does.

    >>> optimizer = ServerOptimizer(FederationSpec(algorithm="fedavgm", server_momentum=0.5))
    >>> model = optimizer.step({"head": np.zeros(1, np.float32)}, {"head": np.ones(1, np.float32)})
    >>> model = optimizer.step(model, {"head": model["head"] + 1})
    >>> model["head"].tolist()
    [2.5]
    """

    def __init__(self, spec: FederationSpec, state: Mapping[str, npt.NDArray[np.generic]] | None = None) -> None:
        """Begin, or go on.

        Args:
            spec: names the optimiser.
            state: `MOMENT/TENSOR`, from a checkpoint.
        """
        self.spec = spec
        self.state: Tensors = {name: np.asarray(tensor, np.float32) for name, tensor in (state or {}).items()}

    def step(self, model: Tensors, mean: Tensors) -> Tensors:
        """Return the next model from the current one and the clinics' mean (same names and shapes)."""
        optimizer = OPTIMIZERS[self.spec.algorithm]
        if optimizer.step is None:
            return mean
        result: Tensors = {}
        with np.errstate(over="ignore", invalid="ignore"):  # the round loop refuses what is not finite
            for name, tensor in model.items():
                known = {moment: self.state.get(f"{moment}/{name}") for moment in optimizer.moments}
                result[name], moments = optimizer.step(tensor, mean[name] - tensor, known, self.spec)
                self.state |= {f"{moment}/{name}": value for moment, value in moments.items()}
        return result


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
