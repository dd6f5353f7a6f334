"""FedYogi: the second moment moves towards the squared changes by steps of their own size."""

import numpy as np

from melfed.common.optimizers.adaptive import adaptive

OPTIMIZER = adaptive(lambda second, square, beta2: second - (np.float32(1) - beta2) * square * np.sign(second - square))
