"""Server optimisers: how a round's mean becomes the next global model, a file each.

An optimiser is a module with `OPTIMIZER`, and its name is what `federation.algorithm` states. They are those of Hsu et
al. (arXiv 1909.06335) for fedavgm, and of Reddi et al., "Adaptive federated optimization" (arXiv 2003.00295),
algorithm 2, for fedadam and fedyogi: no bias correction, and a second moment that starts at τ². Flower's start at zero,
and its FedAdam corrects as Adam does; they are tested against Flower's where both agree, and against a plain loop.
"""

from typing import Final

from melfed.common.optimizers.optimizer import Optimizer
from melfed.common.registry import entries

OPTIMIZERS: Final[dict[str, Optimizer]] = dict(entries(__name__, __path__, "OPTIMIZER"))
"""Every server optimiser by its name."""


def optimizer_of(algorithm: str) -> Optimizer:
    """Return the server optimiser of a name of `federation.algorithm`; fedavg's of those that are in no file here."""
    return OPTIMIZERS.get(algorithm, OPTIMIZERS["fedavg"])
