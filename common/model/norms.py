"""Normalisation layers that carry no statistics of a batch from one patient, or one clinic, to another.

BatchNorm does carry them: in training every image is normalised by the other images of its batch, so a patient's
gradient has no bound of its own (which private training needs), and its running statistics are averages over patients
that neither clipping nor noise protects, and that mean nothing once averaged between clinics with other cameras.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from melfed.common.errors import StudyError

MAX_GROUPS = 32
"""Most groups of a GroupNorm, as its authors chose (Wu & He, arXiv 1803.08494)."""

MIN_GROUP_CHANNELS = 4
"""Fewest channels a group: the last stages have only 2×2 positions at 64 px, too few for statistics of one channel."""

TIMM_NORMS = "timm.layers.norm"
"""Module of timm's own normalisation layers, not all of which are torch's."""

FROZEN_STATISTICS = ("running_mean", "running_var")


class FrozenStatisticsNorm(nn.Module):
    """BatchNorm with constant statistics: an affine map of each channel, the same in training and evaluation.

    `state_dict` has BatchNorm's names, without `num_batches_tracked`. `weight` and `bias` can learn; the statistics are
    parameters that require no gradient, since Opacus refuses layers that learn and have buffers.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    running_mean: nn.Parameter
    running_var: nn.Parameter

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        """Take over the values of a BatchNorm.

        Args:
            norm: a BatchNorm with weight, bias and running statistics, each of shape (channels,).
        """
        super().__init__()
        self.eps = norm.eps
        for name in ("weight", "bias", *FROZEN_STATISTICS):
            value = getattr(norm, name).detach().clone()
            self.register_parameter(name, nn.Parameter(value, requires_grad=name not in FROZEN_STATISTICS))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the stored statistics. Input and output have shape (n, channels, ...)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class NormActivation(nn.Module):
    """A normalisation layer and its activation, as two modules: hooks then see the normalisation's own output."""

    def __init__(self, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Normalise, then activate. Input and output have shape (n, channels, height, width)."""
        activated: Tensor = self.activation(self.norm(x))
        return activated


def group_norm(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    """Return a GroupNorm with a BatchNorm's channels, weight, bias and ε, each image normalised by itself alone.

    The number of groups is the largest divisor of the channels that is at most `MAX_GROUPS` and leaves every group at
    least `MIN_GROUP_CHANNELS` channels; 1 where there is none.
    """
    channels = norm.num_features
    most = min(MAX_GROUPS, channels // MIN_GROUP_CHANNELS)
    groups = next((g for g in range(most, 0, -1) if channels % g == 0), 1)
    replacement = nn.GroupNorm(groups, channels, norm.eps)
    with torch.no_grad():
        replacement.weight.copy_(norm.weight)
        replacement.bias.copy_(norm.bias)
    return replacement


def replace_batch_norms(module: nn.Module, replacement: Callable[[nn.BatchNorm2d], nn.Module]) -> None:
    """Replace every BatchNorm inside a module, in place.

    timm's BatchNorm with a built-in activation becomes a `NormActivation`; the function computed is the same.

    Args:
        module: searched at every depth.
        replacement: makes the new layer from the old one: `FrozenStatisticsNorm` or `group_norm`.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _with_activation(child, replacement(child)))
        else:
            replace_batch_norms(child, replacement)


def _with_activation(old: nn.BatchNorm2d, new: nn.Module) -> nn.Module:
    activation = getattr(old, "act", None)
    if activation is None or isinstance(activation, nn.Identity):
        return new
    return NormActivation(new, activation)


_NORMS = (FrozenStatisticsNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def require_patients_apart(module: nn.Module, backbone: str) -> None:
    """Raise StudyError where a layer still normalises an image by the others of its batch."""
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            raise StudyError(
                f"model.backbone: {name} of {backbone} ({type(layer).__name__}) mixes patients, and melfed cannot "
                "replace it; choose another backbone"
            )


def norm_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return the weights and biases of all normalisation layers, without frozen statistics."""
    norms = (m for m in model.modules() if isinstance(m, _NORMS) or type(m).__module__ == TIMM_NORMS)
    return {
        value for norm in norms for name, value in norm.named_parameters(recurse=False) if name in {"weight", "bias"}
    }


def frozen_statistics(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters that never learn: the statistics of all `FrozenStatisticsNorm`."""
    norms = (m for m in model.modules() if isinstance(m, FrozenStatisticsNorm))
    return set(itertools.chain.from_iterable((norm.running_mean, norm.running_var) for norm in norms))


def affine_names(model: nn.Module) -> frozenset[str]:
    """Return the names of those weights and biases of normalisation layers that learn."""
    norms = norm_parameters(model)
    return frozenset(n for n, parameter in model.named_parameters() if parameter.requires_grad and parameter in norms)
