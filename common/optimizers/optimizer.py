"""What a server optimiser is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from melfed.common.tensors import Array


class StepOptions(Protocol):
    """What optimisers read of a study (`melfed.common.study.protocol.FederationSpec`)."""

    @property
    def server_rate(self) -> float:
        """The learning rate in force."""

    @property
    def server_momentum(self) -> float:
        """Momentum, or β₁."""

    @property
    def server_beta2(self) -> float:
        """β₂."""

    @property
    def server_tau(self) -> float:
        """τ: floor of a step's divisor."""


Kept = Mapping[str, Array]
"""Moments of one tensor by their names."""
ServerStep = Callable[[Array, Array, Mapping[str, Array | None], StepOptions], tuple[Array, Kept]]


@dataclass(frozen=True)
class Optimizer:
    """A server optimiser.

    Attributes:
        step: takes a tensor of the model, the clinics' mean less that, the tensor's moments of the round before (None
            in the first) and the study's options; returns the next tensor and its moments, all float32 and of one
            shape. None: the mean itself is the next model.
        moments: names of what is kept from round to round, for each tensor.
        learning_rate: where the study states none.
    """

    step: ServerStep | None = None
    moments: tuple[str, ...] = ()
    learning_rate: float = 1.0
