"""FedNova (Wang et al., arXiv 2007.07481): updates are normalised by their clinics' local steps.

Where clinics take different numbers of steps, federated averaging minimises another objective than the weighted sum of
the clinics' losses: who takes more steps counts more. Here the next model is x - τ · mean(dᵢ), with dᵢ = (x - yᵢ) / Lᵢ
and τ the mean of the Lᵢ. Lᵢ is η‖aᵢ‖₁ of the paper: the sum of the steps' learning rates, each as long as momentum
carries its gradient on. It follows from the study and the clinic's number of images, so nothing else travels.
"""

import numpy as np

from melfed.common.algorithms.algorithm import Algorithm, ServerRound
from melfed.common.tensors import Tensors


def next_model(ended: ServerRound) -> Tensors:
    """Return x - τ · mean(dᵢ)."""
    return {
        name: (began - ended.rate_sum * ended.direction[name].astype(np.float64)).astype(np.float32)
        for name, began in ended.model.items()
    }


ALGORITHM = Algorithm(next_model=next_model, sgd_alone=True, private=False)
