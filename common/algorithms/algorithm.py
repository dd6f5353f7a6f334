"""What a federated algorithm is: what it changes at the clinics, at the server, and of what travels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from melfed.common.tensors import Array, Tensors

CONTROL = "control"
"""Group of the tensors that go with the model to the clinics, and the name of the server's state that they are."""


@dataclass(frozen=True)
class Begun:
    """What a clinic begins a round from.

    Attributes:
        model: the global model as it was sent.
        control: the server's control variate, of the same names and shapes; empty but for SCAFFOLD.
        kept: what the clinic kept of its last round; empty before the first.
    """

    model: Tensors
    control: Tensors
    kept: Tensors


@dataclass(frozen=True)
class ServerRound:
    """What a round has given the server.

    Attributes:
        model: the global model that the clinics were sent.
        direction: the weighted mean of (x - yᵢ) / Lᵢ over the clinics that answered: x is that model, yᵢ what a clinic
            made of it, Lᵢ the sum of its steps' learning rates (`melfed.common.study.step_plan.rate_sum`).
        rate_sum: the weighted mean of the Lᵢ.
        share: the weight of these clinics, of that of all clinics of the run.
        control: the server's control variate; empty but for SCAFFOLD.
    """

    model: Tensors
    direction: Tensors
    rate_sum: float
    share: float
    control: Tensors


Correction = Callable[[Begun], Tensors]
Keep = Callable[[Begun, Tensors, float], Tensors]
"""From a clinic's beginning, what it has learnt, and the sum of its learning rates."""


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm; what is None is as in federated averaging.

    Attributes:
        correction: what is added to the gradient of each of a clinic's steps.
        keep: what a clinic keeps for its next round.
        next_model: the next global model in place of the clinics' mean.
        next_control: the server's next control variate; it travels to the clinics with the model.
        local_affine: whether a clinic keeps the weights and biases of its normalisation layers to itself.
        personal_model: whether a clinic trains a second model, which it keeps, held to the global one.
        sgd_alone: whether it is defined for plain gradient steps alone, with or without momentum.
        private: whether it is of use with private steps.
    """

    correction: Correction | None = None
    keep: Keep | None = None
    next_model: Callable[[ServerRound], Tensors] | None = None
    next_control: Callable[[ServerRound], Tensors] | None = None
    local_affine: bool = False
    personal_model: bool = False
    sgd_alone: bool = False
    private: bool = True

    @property
    def personal(self) -> bool:
        """Whether each clinic ends with a model of its own."""
        return self.local_affine or self.personal_model

    @property
    def keeps(self) -> bool:
        """Whether a clinic keeps something from round to round."""
        return self.keep is not None or self.personal_model

    @property
    def trainings(self) -> int:
        """How often a clinic trains a round: twice where there is a second model."""
        return 2 if self.personal_model else 1

    @property
    def directed(self) -> bool:
        """Whether the server needs each update by the sum of its learning rates."""
        return self.next_model is not None or self.next_control is not None


def zeros_like(tensors: Mapping[str, Array]) -> Tensors:
    """Return tensors of the same names and shapes that are 0."""
    return {name: np.zeros(tensor.shape, np.float32) for name, tensor in tensors.items()}


def as_control(control: Tensors) -> Tensors:
    """Return a control variate as it stands in the server's state, and travels beside a model."""
    return {f"{CONTROL}/{name}": tensor for name, tensor in control.items()}


def control_of(tensors: Tensors) -> Tensors:
    """Return the control variate among tensors; empty where there is none."""
    start = f"{CONTROL}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
