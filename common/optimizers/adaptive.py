"""The step that the adaptive server optimisers share: Reddi et al. (arXiv 2003.00295), algorithm 2."""

from collections.abc import Callable, Mapping

import numpy as np

from melfed.common.optimizers.optimizer import Kept, Optimizer, StepOptions
from melfed.common.tensors import Array

LEARNING_RATE = 0.01
"""An adaptive step has about the length of the rate in every value of the model, however small the clinics' changes
are: 1 ruins any network. Reddi et al. find 10^-2 to 10^-1 best with τ = 10^-3 for most of their tasks; the smaller is
taken here."""

Second = Callable[[Array, Array, np.float32], Array]


def adaptive(second_moment: Second) -> Optimizer:
    """Return an adaptive optimiser.

    Args:
        second_moment: the next second moment, from the one before, the squares of the changes, and β₂.
    """

    def step(model: Array, delta: Array, known: Mapping[str, Array | None], options: StepOptions) -> tuple[Array, Kept]:
        one, rate, tau = np.float32(1), np.float32(options.server_rate), np.float32(options.server_tau)
        beta1, beta2 = np.float32(options.server_momentum), np.float32(options.server_beta2)
        zero: Array = np.zeros(model.shape, np.float32)
        first, second = known["momentum"], known["second"]
        momentum: Array = beta1 * (zero if first is None else first) + (one - beta1) * delta
        second = second_moment(zero + tau * tau if second is None else second, delta * delta, beta2)
        root: Array = np.sqrt(second)
        return model + rate * momentum / (root + tau), {"momentum": momentum, "second": second}

    return Optimizer(step, ("momentum", "second"), LEARNING_RATE)
