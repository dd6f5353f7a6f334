"""FedProx (Li et al., arXiv 1812.06127): FedAvg at the server; the proximal term is the clinics' (`proximal_mu`)."""

from melfed.common.optimizers.optimizer import Optimizer

OPTIMIZER = Optimizer()
