"""The neck: features from several depths of a backbone, whitened by statistics of public images, before the head.

A small head on such features is what a clinic can train well under strong privacy: it has few parameters, and whitened
inputs give all of them gradients of one size, so clipping and noise treat them alike. The statistics are those of
public images, fixed before any clinic takes part; nothing of the neck learns or travels.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from melfed.common.errors import StudyError
from melfed.common.tensors import Array

_PROBE_PIXELS: Final = 128
_MOST_PIXELS: Final = 32
"""Largest side of a feature map that is tapped: earlier ones hold edges and colours at single pixels."""


class Neck(nn.Module):
    """A fixed affine map from pooled features to whitened ones.

    Attributes:
        taps: names of the trunk's modules whose outputs are pooled.
        mean: of the pooled features over public images, shape (inputs,).
        projection: onto their whitened principal components, shape (inputs, dimensions).
    """

    def __init__(self, taps: tuple[str, ...], inputs: int, dimensions: int) -> None:
        """Take what `tap_modules` gave. Raises StudyError where there are fewer inputs than dimensions."""
        if dimensions > inputs:
            raise StudyError(f"model.neck is {dimensions}, but the backbone gives {inputs} features; choose no more")
        super().__init__()
        self.taps = taps
        self.mean = nn.Parameter(torch.zeros(inputs), requires_grad=False)
        self.projection = nn.Parameter(torch.zeros(inputs, dimensions), requires_grad=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map pooled features (n, inputs) to whitened ones (n, dimensions)."""
        # In full precision: what is whitened last has the smallest differences.
        with torch.autocast(pooled.device.type, enabled=False):
            return (pooled.float() - self.mean) @ self.projection

    @contextmanager
    def tapped(self, trunk: nn.Module) -> Iterator[list[Tensor]]:
        """Collect the tapped outputs, pooled, of a run of the trunk in this context, in the order of `taps`."""
        found: dict[str, Tensor] = {}
        handles = [
            trunk.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: found.__setitem__(name, pool(output))
            )
            for name in self.taps
        ]
        pooled: list[Tensor] = []
        try:
            yield pooled
            pooled.extend(found[name] for name in self.taps)
        finally:
            for handle in handles:
                handle.remove()


def pool(maps: Tensor) -> Tensor:
    """Return mean and standard deviation over positions, shape (n, 2 channels), of maps (n, channels, h, w)."""
    maps = maps.float()
    mean = maps.mean((2, 3))
    spread = ((maps - mean[:, :, None, None]) ** 2).mean((2, 3))
    return torch.cat([mean, torch.sqrt(spread + 1e-8)], dim=1)


def tap_modules(trunk: nn.Module, pixels: int | None = None) -> tuple[tuple[str, ...], int]:
    """Choose where a trunk is tapped: the last module at each resolution, on the way down.

    A module that runs several times, such as an activation that layers share, has no output of its own and is left out.

    Args:
        trunk: a backbone.
        pixels: side of the images that it is tried with; None: any will do.

    Returns:
        The modules' names, and the length of all pooled outputs together.

    Raises:
        StudyError: it has no maps at several resolutions, as a ViT has not.
    """
    order: list[tuple[str, int, int]] = []
    runs: Counter[str] = Counter()

    def note(name: str, output: object) -> None:
        runs[name] += 1
        order.extend(_map_of(name, output))

    probe = copy.deepcopy(trunk).eval()
    for name, module in probe.named_modules():
        if name:
            module.register_forward_hook(lambda _m, _i, output, name=name: note(name, output))
    device = next(probe.parameters()).device
    with torch.inference_mode():
        probe(torch.zeros(1, 3, pixels or _PROBE_PIXELS, pixels or _PROBE_PIXELS, device=device))
    last: dict[int, tuple[str, int]] = {}
    for name, channels, side in order:
        if runs[name] == 1 and 1 < side <= min([_MOST_PIXELS, *last]):
            last[side] = (name, channels)
    if len(last) < 2:
        raise StudyError("model.neck: the backbone has no feature maps at several resolutions; leave the neck out")
    return tuple(name for name, _ in last.values()), 2 * sum(channels for _, channels in last.values())


def _map_of(name: str, output: object) -> list[tuple[str, int, int]]:
    if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3]:
        return [(name, output.shape[1], output.shape[2])]
    return []


def whitening(pooled: Array, dimensions: int, shrinkage: float = 0.0) -> tuple[Array, Array]:
    """Return mean and projection of a neck from the pooled features of public images.

    Every feature is brought to unit variance first, so that depths with large values do not drown the others; then the
    leading principal components are scaled to one variance, such that an image's whitened features have a norm of about
    1. A head's gradient is then hardly longer than 1, and clipping at 1 leaves most of them alone.

    Args:
        pooled: shape (images, inputs).
        dimensions: how many components are kept, at most `inputs`.
        shrinkage: what is added to each component's variance before it is scaled, in units of the mean variance of
            those that are kept; 0: all get one variance. With more, those that varied most stay longer.

    Returns:
        mean, shape (inputs,), and projection, shape (inputs, dimensions).
    """
    values = pooled.astype(np.float64)
    mean, deviation = values.mean(0), values.std(0)
    scale = np.where(deviation > 1e-8, 1 / np.maximum(deviation, 1e-8), 0.0)
    standard = (values - mean) * scale
    variances, components = np.linalg.eigh(standard.T @ standard / len(standard))
    leading = np.argsort(variances)[::-1][:dimensions]
    kept = np.maximum(variances[leading], variances.max() * 1e-6)
    left = kept / (kept + shrinkage * kept.mean())
    projection = scale[:, None] * components[:, leading] * np.sqrt(left / left.sum() / kept)
    return mean.astype(np.float32), projection.astype(np.float32)
