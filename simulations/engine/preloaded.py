"""What the process that workers are forked from imports, so that none of them has to.

The first optimiser of a process imports some eight hundred modules of torch (its compiler), which takes seconds.
"""

import torch

from melfed.simulations.engine import local_worker

__all__ = ["local_worker"]

torch.optim.SGD([torch.zeros(1)])
