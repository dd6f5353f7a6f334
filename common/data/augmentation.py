"""From decoded pixels to a network's input: augmentation for dermoscopy and the backbone's own normalisation.

A lesion has no upright side, so all eight symmetries of the square are equally likely. Colour carries the diagnosis,
so it is only changed as much as lamp, exposure and white balance differ between two clinics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

_SYMMETRIES: Final = 8
_COLUMNS: Final = 6  # symmetry, brightness, contrast, one gain a channel
_GREY: Final = 0.5


@dataclass(frozen=True)
class Parameters:
    """What happens to each image of a batch.

    Attributes:
        symmetries: int64 (n,), 0 to 7: quarter turns (modulo 4), mirrored first from 4 on.
        gains: float32 (n, 3), factor of each colour channel.
        offsets: float32 (n, 3), added to each colour channel; both for intensities in 0..1.
    """

    symmetries: npt.NDArray[np.int64]
    gains: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; 0.1 means up to 10 % either way.

    Attributes:
        brightness: added to all channels, as a share of the full intensity.
        contrast: stretch around mid-grey.
        colour: gain of each channel on its own.
    """

    brightness: float = 0.08
    contrast: float = 0.1
    colour: float = 0.04

    def draw(self, n: int, generator: torch.Generator) -> Parameters:
        """Draw the parameters of n images, each independent of how many others there are.

        Args:
            n: number of images.
            generator: on the CPU; the only source of randomness.
        """
        uniform: npt.NDArray[np.float32] = torch.rand(n, _COLUMNS, generator=generator).numpy()
        symmetries = (uniform[:, 0] * _SYMMETRIES).astype(np.int64)
        # What is left of the columns spans -1..1.
        shifts = 2 * uniform[:, 1:] - 1
        brightness = self.brightness * shifts[:, 0:1]
        contrast = 1 + self.contrast * shifts[:, 1:2]
        channels = 1 + self.colour * shifts[:, 2:5]
        # channel gain × (contrast × (x - grey) + grey + brightness) is one factor and one summand.
        gains = (channels * contrast).astype(np.float32)
        offsets = (channels * (_GREY * (1 - contrast) + brightness)).astype(np.float32)
        return Parameters(symmetries, gains, offsets)


def turn(batch: npt.NDArray[np.uint8], symmetries: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Apply one of the eight symmetries of the square to each image.

    Args:
        batch: (n, size, size, 3).
        symmetries: (n,), see `Parameters`.

    Returns:
        A new array of the same shape.
    """
    # One element a pixel: NumPy then moves three bytes at a time.
    pixels = np.ascontiguousarray(batch).view("V3")[..., 0]
    turned = np.empty_like(pixels)
    for symmetry in range(_SYMMETRIES):
        chosen = np.flatnonzero(symmetries == symmetry)
        if chosen.size:
            images = pixels[chosen]
            mirrored = images[:, :, ::-1] if symmetry >= 4 else images
            turned[chosen] = np.rot90(mirrored, symmetry % 4, axes=(1, 2))
    return turned[..., None].view(np.uint8)


def to_input(
    batch: npt.NDArray[np.uint8],
    mean: Sequence[float],
    std: Sequence[float],
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
    *,
    augmentation: Augmentation = Augmentation(),
) -> torch.Tensor:
    """Turn decoded images into a network's input.

    Augmentation and normalisation are one linear map a channel, so intensities are not clipped at black and white.

    Args:
        batch: uint8 (n, size, size, 3), RGB.
        mean: of the three channels, for intensities in 0..1, as the backbone was trained with.
        std: likewise.
        generator: on the CPU, drives the augmentation; None for none (evaluation).
        device: where the result lies; pixels travel as bytes.
        augmentation: the ranges.

    Returns:
        float32 (n, 3, size, size) in channels-last memory format.

    Raises:
        ValueError: the batch is not uint8 of shape (n, size, size, 3).
    """
    if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1] != batch.shape[2] or batch.shape[3] != 3:
        raise ValueError(f"a batch is uint8 (n, size, size, 3), not {batch.dtype} {batch.shape}")
    factors = np.full((len(batch), 3), 1.0, np.float32)
    summands = np.zeros((len(batch), 3), np.float32)
    if generator is not None:
        parameters = augmentation.draw(len(batch), generator)
        batch = turn(batch, parameters.symmetries)
        factors, summands = parameters.gains, parameters.offsets
    divisor = np.asarray(std, np.float32)
    scale = torch.from_numpy(factors / (255 * divisor)).to(device)
    shift = torch.from_numpy((summands - np.asarray(mean, np.float32)) / divisor).to(device)
    # Pixels stay (n, size, size, 3) in memory, which is what channels-last means for a permuted view.
    images = torch.tensor(batch, device=device).to(torch.float32)
    return torch.addcmul(shift[:, None, None, :], images, scale[:, None, None, :]).permute(0, 3, 1, 2)
