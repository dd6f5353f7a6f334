"""FedBN (Li et al., arXiv 2102.07623), as local affine: each clinic's normalisation layers stay its own.

All other parameters are averaged as in federated averaging. Statistics of a batch there are none here (they are frozen,
or each image's own), so that what stays at the clinic are the weights and biases of normalisation layers. In a private
study they are trained by the same noised steps as the rest, which is what lets later updates depend on them.
"""

from melfed.common.algorithms.algorithm import Algorithm, Begun
from melfed.common.tensors import Tensors


def keep(begun: Begun, learnt: Tensors, _rate_sum: float) -> Tensors:
    """Return what is not of the global model."""
    return {name: tensor for name, tensor in learnt.items() if name not in begun.model}


ALGORITHM = Algorithm(keep=keep, local_affine=True)
