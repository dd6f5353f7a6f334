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
from melfed.common.algorithms import algorithm_of
from melfed.common.algorithms.algorithm import ServerRound, as_control, control_of, zeros_like
from melfed.common.errors import QuorumError
from melfed.common.optimizers import optimizer_of
from melfed.common.study.protocol import FederationSpec
from melfed.common.tensors import Tensors
from melfed.server.aggregation import robust
from melfed.server.aggregation.direction import MeanDirection, RateSum


class RoundMean:
    """The mean, of the kind that the study asks for, over a round's updates; whatever the order in which they come.

    **Weights.** What is wanted is the mean gradient over all patients, Σ pₖ gₖ for clinics' shares pₖ = nₖ / N. Under
    privacy clinic k sends gₖ with noise of the variance vₖ = d σ² / nₖ², all d parameters together: its sum has the
    same noise σ whatever its size. If clinics' gradients differ by a variance of τ² about a common one, weights w that
    add up to 1 are wrong by

        Σ wₖ² vₖ + τ² Σ (wₖ - pₖ)²,    which is least at wₖ = (τ² pₖ + λ) / (vₖ + τ²), Σ w = 1.

    Without a bias, whatever the gradients are, there is w = p alone: the clinics' noised sums, added up, over N. Where
    patients are the same everywhere (τ² = 0) it would be wₖ ∝ nₖ². A bias is there in every step, whereas the noise of
    T steps is averaged, so that the vₖ of a whole training counts, that of σ = 1 / μ. Four clinics of 1,097, 1,152,
    2,770 and 196 lesions (HAM10000) differ by 0.017 at the start of a study, |g|² being 0.15: there p is wrong by 1.1,
    1.03 and 1.01 times the least at ε 1, 3 and 8, and nₖ² by 10, 60 and 300 times. At the end, where the mean gradient
    is none, they differ by 0.0008: 1.3, 1.2 and 1.1 times, and 1.5, 4 and 20. So w = p, at any ε.
    """

    def __init__(self, spec: FederationSpec, model: Tensors, weight: int, rate_sum: RateSum | None = None) -> None:
        """Begin.

        Args:
            spec: says which mean.
            model: the global model that the updates begin from.
            weight: the largest sum that the updates' weights may have.
            rate_sum: of a clinic's steps, by its weight; needed by the algorithms that go by it.
        """
        self.spec, self.model = spec, model
        self._direction = None
        if rate_sum is not None and algorithm_of(spec.algorithm).directed:
            self._direction = MeanDirection(model, weight, rate_sum)
        self._mean = WeightedMean(fixed_point_for(model, max(weight, 1), spec.clip_update_norm or 0.0))
        self._updates: dict[str, Tensors] = {}
        self.weight = 0.0

    def check(self, tensors: Tensors, weight: float) -> None:
        """Check that an update can be added. Raises TensorError, which names the tensor that is too large."""
        if self._direction is not None:
            self._direction.of(tensors, weight)
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
        if self._direction is not None:
            self._direction.add(tensors, weight)
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

    def direction(self) -> tuple[Tensors, float] | None:
        """Return the mean direction and the mean sum of learning rates, where the algorithm goes by them."""
        return None if self._direction is None else self._direction.mean()


class ServerOptimizer:
    """Turns a round's mean into the next global model, as one of `melfed.common.optimizers` does, or of
    `melfed.common.algorithms`.

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
            state: `MOMENT/TENSOR`, from a checkpoint; the control variates of SCAFFOLD are such.
        """
        self.spec = spec
        self.state: Tensors = {name: np.asarray(tensor, np.float32) for name, tensor in (state or {}).items()}

    def sent(self, model: Tensors) -> Tensors:
        """Return all that goes to the clinics: the model, and the control variates where there are such."""
        if algorithm_of(self.spec.algorithm).next_control is None:
            return model
        control = control_of(self.state) or zeros_like(model)
        return {**model, **as_control(control)}

    def ended(self, model: Tensors, total: RoundMean, share: float) -> Tensors:
        """Return the next model from the current one and a round's mean.

        Args:
            model: that the clinics were sent.
            total: of their updates.
            share: their weight, of that of all clinics of the run.
        """
        algorithm, directed = algorithm_of(self.spec.algorithm), total.direction()
        mean = total.mean()
        if directed is None:
            return self.step(model, mean)
        ended = ServerRound(model, *directed, share, control_of(self.state))
        if algorithm.next_control is not None:
            self.state |= as_control(algorithm.next_control(ended))
        return mean if algorithm.next_model is None else algorithm.next_model(ended)

    def step(self, model: Tensors, mean: Tensors) -> Tensors:
        """Return the next model from the current one and the clinics' mean (same names and shapes)."""
        optimizer = optimizer_of(self.spec.algorithm)
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
