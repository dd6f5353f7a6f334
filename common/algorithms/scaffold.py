"""SCAFFOLD (Karimireddy et al., arXiv 1910.06378, algorithm 1 with option II): control variates against client drift.

A clinic adds c - cᵢ to the gradient of each step, and keeps cᵢ⁺ = cᵢ - c + (x - yᵢ) / L, with L the sum of the round's
learning rates (Kη of the paper, where that is constant): the mean gradient that it has seen. What it would send besides
the model, cᵢ⁺ - cᵢ = (x - yᵢ) / L - c, follows from the model that it sends and from public numbers, so that nothing
else travels up, and the server takes c⁺ = c + |S| / N · mean(cᵢ⁺ - cᵢ).

Clinics weigh as everywhere here: means are by images, and |S| / N is the share of all weight, so that c stays the
weighted mean of all cᵢ. In a private study cᵢ is made of noised steps alone, and so is what it corrects: no ε is spent
besides that of the steps (post-processing; Noble, Bellet & Dieuleveut, arXiv 2111.09278).
"""

import numpy as np

from melfed.common.algorithms.algorithm import Algorithm, Begun, ServerRound, zeros_like
from melfed.common.tensors import Tensors


def correction(begun: Begun) -> Tensors:
    """Return c - cᵢ; a clinic that has kept nothing yet begins with cᵢ = 0."""
    kept = begun.kept or zeros_like(begun.model)
    return {name: control - kept[name] for name, control in begun.control.items()}


def keep(begun: Begun, learnt: Tensors, rate_sum: float) -> Tensors:
    """Return cᵢ⁺."""
    kept = begun.kept or zeros_like(begun.model)
    return {
        name: (kept[name] - begun.control[name] + (began.astype(np.float64) - learnt[name]) / rate_sum).astype(
            np.float32
        )
        for name, began in begun.model.items()
    }


def next_control(ended: ServerRound) -> Tensors:
    """Return c⁺."""
    control = ended.control or zeros_like(ended.model)
    share = np.float32(ended.share)
    return {name: control[name] + share * (mean - control[name]) for name, mean in ended.direction.items()}


ALGORITHM = Algorithm(correction=correction, keep=keep, next_control=next_control, sgd_alone=True)
