"""What a robust rule of aggregation is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from melfed.common.tensors import Tensors


class RuleOptions(Protocol):
    """What rules read of a study (`melfed.common.study.protocol.FederationSpec`)."""

    @property
    def robust_trim(self) -> float:
        """Fraction of the updates left out at either end."""

    @property
    def robust_byzantine(self) -> int:
        """How many updates may be false."""


def _of_three(_: RuleOptions) -> int:
    return 3


@dataclass(frozen=True)
class RobustRule:
    """A mean that a few false updates, whatever they hold, cannot lead astray. Clinics weigh the same in it.

    Attributes:
        mean: takes all updates of a round, in an order that does not depend on who came first, and returns one
            (float32, same names and shapes).
        needed: how many updates there must be at least. 3: of two nobody can tell which is the false one.
    """

    mean: Callable[[Sequence[Tensors], RuleOptions], Tensors]
    needed: Callable[[RuleOptions], int] = _of_three
