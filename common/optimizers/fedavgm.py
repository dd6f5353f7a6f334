"""FedAvgM (Hsu et al., arXiv 1909.06335): a step with momentum along the clinics' mean change."""

from collections.abc import Mapping

import numpy as np

from melfed.common.optimizers.optimizer import Moments, Optimizer, Options
from melfed.common.tensors import Array


def _step(model: Array, delta: Array, known: Mapping[str, Array | None], options: Options) -> tuple[Array, Moments]:
    before = known["momentum"]
    momentum: Array = np.float32(options.server_momentum) * (np.zeros_like(model) if before is None else before) + delta
    return model + np.float32(options.server_rate) * momentum, {"momentum": momentum}


OPTIMIZER = Optimizer(_step, ("momentum",))
