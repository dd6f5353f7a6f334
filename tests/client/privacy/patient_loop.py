"""What private gradients are compared with: a loop over patients with plain autograd."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from melfed.client.privacy.gradients import Clipping, IntArray


def clipped_sums(
    model: nn.Module, losses_of: Callable[[IntArray], Tensor], patients: IntArray, clipping: Clipping
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the clipped sums by parameter and the norms by patient; `losses_of` maps image numbers to losses."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    sums = {name: torch.zeros_like(value) for name, value in parameters.items()}
    norms = []
    for patient in range(int(patients.max()) + 1):
        loss = losses_of(np.flatnonzero(patients == patient)).mean()
        grads = torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        norm = length(dict(zip(parameters, grads, strict=True)))
        factor = clipping.norm / (norm + 0.01) if clipping.normalised else clipping.norm / norm.clamp(min=clipping.norm)
        for name, grad in zip(parameters, grads, strict=True):
            sums[name] += factor * grad
        norms.append(norm)
    return sums, torch.stack(norms)


def length(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the norm of all tensors as one vector."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(value) for value in tensors.values()]))


def error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the relative error of all tensors as one vector."""
    assert found.keys() == expected.keys()
    difference = {name: found[name].double() - expected[name].double() for name in expected}
    return float(length(difference) / length(expected))


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter random values that keep activations of a size through deep networks."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        value = parameter.data
        if value.dim() > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("weight", "running_var")):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0, 0.1, generator=generator)
