"""FedAvg (McMahan et al., arXiv 1602.05629): the clinics' mean is the next model."""

from melfed.common.optimizers.optimizer import Optimizer

OPTIMIZER = Optimizer()
