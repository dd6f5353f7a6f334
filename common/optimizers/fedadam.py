"""FedAdam: the second moment is a decaying mean of the squared changes."""

import numpy as np

from melfed.common.optimizers.adaptive import adaptive

OPTIMIZER = adaptive(lambda second, square, beta2: beta2 * second + (np.float32(1) - beta2) * square)
