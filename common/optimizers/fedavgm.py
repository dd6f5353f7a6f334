"""FedAvgM (Hsu et al., arXiv 1909.06335): a step with momentum along the clinics' mean change."""

from collections.abc import Mapping

import numpy as np

from melfed.common.optimizers.optimizer import Kept, Optimizer, StepOptions
from melfed.common.tensors import Array


def _step(model: Array, delta: Array, known: Mapping[str, Array | None], options: StepOptions) -> tuple[Array, Kept]:
    before = known["momentum"]
    momentum: Array = np.float32(options.server_momentum) * (np.zeros_like(model) if before is None else before) + delta
    return model + np.float32(options.server_rate) * momentum, {"momentum": momentum}


OPTIMIZER = Optimizer(_step, ("momentum",))
