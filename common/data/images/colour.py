"""From the colours that a picture is stored in to 8-bit sRGB, by the profile that it carries.

Pillow and the libraries behind it decode, and leave colours as they are: a red of (230, 90, 80) that a phone saved as
Display P3 comes out as (214, 99, 86).
"""

import functools
import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from melfed.common.data.images.problems import PictureError

SAME: Final = 2
"""Levels by which a profile may differ from sRGB and still be it: two ways of rounding the same curve."""

_GRID: Final = 9
_SPACES: Final = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
"""Colour space that a profile must be of, by Pillow's mode."""

# To sRGB, linear both: of Display P3 (CSS Color Module Level 4, section 10.10) and of Adobe RGB (1998, its annex C).
_P3_TO_SRGB: Final = np.array(
    [
        [1.2249401762805598, -0.22494017628055996, 0.0],
        [-0.042056954709688163, 1.0420569547096881, 0.0],
        [-0.019637554590334432, -0.078636045550631889, 1.0982736001409663],
    ],
    np.float32,
)
_ADOBE_TO_SRGB: Final = np.array(
    [[1.3983557, -0.3983557, 0.0], [0.0, 1.0, 0.0], [0.0, -0.0429290, 1.0429290]], np.float32
)
_ADOBE_GAMMA: Final = 563 / 256
_EXIF_IFD, _INTEROPERABILITY_IFD, _INTEROPERABILITY = 0x8769, 0xA005, 1
_ADOBE_RGB: Final = "R03"


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a decoded picture to RGB mode in sRGB; one without a profile is sRGB already.

    A profile that is damaged or of another kind of colours is ignored, as browsers do, where there are colours
    without it.

    Args:
        image: of mode RGB, L or CMYK.
        profile: the content of an ICC profile.

    Raises:
        PictureError: inks (CMYK) without a profile that says which.
    """
    transform = _transform(profile, image.mode) if profile else None
    if isinstance(transform, ImageCms.ImageCmsTransform):
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None  # noqa: S101 (only None in place)
        return converted
    if image.mode == "CMYK":
        raise PictureError("CMYK without a usable colour profile: convert to 8-bit RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def display_p3_to_srgb(image: Image.Image) -> Image.Image:
    """Convert an RGB picture that is in Display P3 without carrying its profile."""
    return _converted(image, _SRGB_CURVE, _P3_TO_SRGB)


def adobe_rgb_to_srgb(image: Image.Image) -> Image.Image:
    """Convert an RGB picture that is in Adobe RGB (1998) without carrying its profile."""
    return _converted(image, _ADOBE_CURVE, _ADOBE_TO_SRGB)


def is_adobe_rgb(exif: Image.Exif) -> bool:
    """Whether a camera says by EXIF that its picture is in Adobe RGB: such files carry no profile (DCF 2.0)."""
    mark = exif.get_ifd(_INTEROPERABILITY_IFD).get(_INTEROPERABILITY) if exif.get_ifd(_EXIF_IFD) else None
    return isinstance(mark, str) and mark.strip("\0 ") == _ADOBE_RGB


_LEVELS: Final = np.arange(256) / 255
_SRGB_CURVE: Final = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
_ADOBE_CURVE: Final = (_LEVELS**_ADOBE_GAMMA).astype(np.float32)


def _converted(image: Image.Image, curve: npt.NDArray[np.float32], matrix: npt.NDArray[np.float32]) -> Image.Image:
    srgb = np.clip(curve[np.asarray(image)] @ matrix.T, 0, 1)
    encoded = np.where(srgb <= 0.0031308, 12.92 * srgb, 1.055 * np.maximum(srgb, 1e-6) ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.round(255 * encoded).astype(np.uint8))


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a profile to sRGB; None where it is sRGB, damaged, or not of this mode's colours."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if opened.profile.xcolor_space.strip() != _SPACES.get(mode):
            return None
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        return None if _changes_nothing(transform, mode) else transform
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, _GRID).round().astype(np.uint8)
    if mode == "L":
        probe = Image.fromarray(levels[None])
    else:
        grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(_GRID, -1, 3)
        probe = Image.fromarray(grid)
    after = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    return int(np.abs(after - np.asarray(probe.convert("RGB"), np.int16)).max()) <= SAME
