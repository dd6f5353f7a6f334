"""HEIC, as iPhones save photographs, through the optional package pillow-heif."""

import io
from typing import Any, Final

from PIL import Image

from melfed.common.data.images.colour import display_p3_to_srgb
from melfed.common.data.images.problems import PictureError

_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_CONTAINERS: Final = frozenset({b"mif1", b"msf1"})
_BOX: Final = slice(4, 8)
_MOST_BRANDS: Final = 256
# Numbers of ITU-T H.273: primaries that are sRGB's (or not said), Display P3's; transfers of HDR (PQ, HLG).
_SRGB_PRIMARIES: Final = frozenset({1, 2})
_P3_PRIMARIES: Final = 12
_HDR_TRANSFERS: Final = frozenset({16, 18})


def is_heif(data: bytes) -> bool:
    """Whether the content of a file is HEIC's."""
    if data[_BOX] != b"ftyp":
        return False
    length = min(int.from_bytes(data[:4], "big"), _MOST_BRANDS)
    major, others = data[8:12], {data[place : place + 4] for place in range(16, length - 3, 4)}
    return major in _BRANDS or (major in _CONTAINERS and bool(others & _BRANDS))


def open_heif(data: bytes, most_pixels: int) -> Image.Image:
    """Decode the main picture of a HEIC file; upright, with its ICC profile in `info`, else in sRGB.

    Args:
        data: the content of the file.
        most_pixels: width × height that is decoded at most.

    Raises:
        PictureError: pillow-heif is not installed, or the picture cannot be used.
    """
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            "HEIC: install pillow-heif (pip install 'melfed[heic]'), or convert to JPEG", mendable=True
        ) from None
    try:
        file = pillow_heif.open_heif(io.BytesIO(data))
        if file.size[0] * file.size[1] > most_pixels:
            raise PictureError(f"HEIC of more than {most_pixels // 1_000_000} megapixels: make it smaller")
        colours = _primaries(file.info)
        image: Image.Image = file.to_pillow()
    except (OSError, ValueError, RuntimeError, EOFError, SyntaxError, LookupError) as error:
        raise PictureError("truncated or damaged HEIC file") from error
    return display_p3_to_srgb(image) if colours == _P3_PRIMARIES and image.mode == "RGB" else image


def _primaries(info: dict[str, Any]) -> int:
    """The number of the primary colours that the file states where it has no profile."""
    stated = info.get("nclx_profile") or {}
    if int(stated.get("transfer_characteristics", 0)) in _HDR_TRANSFERS:
        raise PictureError("HEIC in high dynamic range: export it as JPEG, which brings it into sRGB")
    if info.get("icc_profile"):
        return min(_SRGB_PRIMARIES)
    primaries = int(stated.get("color_primaries", min(_SRGB_PRIMARIES)))
    if primaries not in _SRGB_PRIMARIES | {_P3_PRIMARIES}:
        raise PictureError("HEIC in colours that are not read: export it as JPEG in sRGB")
    return primaries
