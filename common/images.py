"""From an image file to a square of 8-bit RGB pixels, or one sentence on why not.

What is faithful in 8-bit RGB is decoded: 8-bit colour and greyscale, with an alpha channel where it is fully opaque.
Everything that would need a guess (CMYK without its profile, a palette, 16 bits squeezed into 8, several frames, what
lies under a transparent pixel) is an `ImageProblem`, whose reason says what to convert.
"""

import io
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from common.data.containers import MemberError, read_member, split_member
from common.errors import DataError

Pixels = npt.NDArray[np.uint8]

DECODER_VERSION: Final = 1
"""Raised whenever `decode` gives other pixels or problems for the same file; decoded-image caches carry it."""

MAX_PIXELS: Final = 80_000_000
"""Largest width × height that is decoded: three times the largest ISIC original, and 240 MB once decoded."""

MAX_FILE_BYTES: Final = 512 * 1024 * 1024
"""Largest file that is read into memory."""

TOO_LARGE: Final = f"larger than {MAX_FILE_BYTES // 1024**2} MiB: make it smaller"
"""Reason to leave out a file above `MAX_FILE_BYTES`."""

MIN_SIDE: Final = 16
"""Shorter sides below this many pixels show no lesion."""

# Pillow knows more formats; some of them start programs (EPS) or hide their bit depth (JPEG 2000). GIF is here so that
# it is refused for the right reason.
_FORMATS: Final = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF")
_FAITHFUL_MODES: Final = frozenset({"L", "LA", "RGB", "RGBA", "YCbCr"})
_MODE_NAMES: Final = {"P": "palette", "PA": "palette", "CMYK": "CMYK", "1": "black and white without greys"}
_TIFF_BITS_PER_SAMPLE: Final = 258
_EXIF_ORIENTATION: Final = 0x0112
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's decoders raise on damaged input, depending on the format and the place of the damage.
_DAMAGE: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_NO_IMAGE: Final = "no readable image: its start is none of JPEG, PNG, TIFF, BMP or WebP"
_TOO_MANY_PIXELS: Final = f"more than {MAX_PIXELS // 1_000_000} megapixels, maybe a decompression bomb: make it smaller"


class ImageProblem(DataError):  # noqa: N818 (a finding about one file, which the run survives)
    """An image that cannot be used; `reason` says why, in one line, and what to convert where that helps."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(image, reason)
        self.image = image
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


def decode(path: Path, size: int) -> Pixels:
    """Read an image file as a square of pixels.

    The picture is turned upright by its EXIF orientation, its shorter side is brought to `size` with antialiasing
    (Lanczos), and the centre is cut out.

    Returns:
        uint8 array of shape (size, size, 3), RGB.

    Raises:
        ImageProblem: the file cannot be read, or its content cannot be used.
    """
    return decode_bytes(read_file(path), size, str(path))


def read_file(path: Path) -> bytes:
    """Read a whole image file, also one inside an HDF5 file (`common.data.containers`).

    Raises:
        ImageProblem: the file is missing, not readable, or above `MAX_FILE_BYTES`.
    """
    file, member = split_member(str(path))
    try:
        if member is None:
            with path.open("rb") as opened:
                data: bytes | None = opened.read(MAX_FILE_BYTES + 1)
        else:
            data = read_member(Path(file), member, MAX_FILE_BYTES)
    except OSError as error:
        raise ImageProblem(str(path), f"cannot be read: {error.strerror or error}") from error
    except MemberError as error:
        raise ImageProblem(str(path), str(error)) from error
    if data is None or len(data) > MAX_FILE_BYTES:
        raise ImageProblem(str(path), TOO_LARGE)
    return data


def decode_bytes(data: bytes, size: int, name: str = "image") -> Pixels:
    """Decode the content of an image file; see `decode`.

    The outcome depends on `data` and `size` alone; `name` is only for the message.

    Raises:
        ImageProblem: the content cannot be used.
    """
    if not data:
        raise ImageProblem(name, "empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _refuse_unfaithful(image, name)
            # JPEG can decode at a half, a quarter or an eighth: at least twice the target keeps what Lanczos needs.
            image.draft(None, (2 * size, 2 * size))
            image.load()
            return _square(image, size, name)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageProblem(name, _TOO_MANY_PIXELS) from error
    except UnidentifiedImageError as error:
        raise ImageProblem(name, _NO_IMAGE) from error
    except _DAMAGE as error:
        raise ImageProblem(name, f"truncated or damaged: {_one_line(error)}") from error


def _refuse_unfaithful(image: Image.Image, name: str) -> None:
    """Raise for what the header alone tells, before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageProblem(name, _TOO_MANY_PIXELS)
    # A camera's MPO carries previews after the picture itself: its first image is the picture.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise ImageProblem(name, "several frames: export the one that shows the lesion as a file of its own")
    if min(width, height) < MIN_SIDE:
        raise ImageProblem(name, f"{width}×{height} pixels: the shorter side is under {MIN_SIDE}")
    if _is_deep(image):
        raise ImageProblem(name, "more than 8 bits a channel: convert to 8-bit RGB")
    if image.mode not in _FAITHFUL_MODES:
        raise ImageProblem(name, f"{_MODE_NAMES.get(image.mode, f'mode {image.mode}')}: convert to 8-bit RGB")


def _is_deep(image: Image.Image) -> bool:
    """Tell whether the file has more than 8 bits a channel; Pillow would drop the lower ones of RGB silently."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return bool(max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))) > 8)
    tiles = getattr(image, "tile", [])
    return image.mode.startswith(("I", "F")) or (image.format == "PNG" and any(";16" in str(tile[3]) for tile in tiles))


def _square(image: Image.Image, size: int, name: str) -> Pixels:
    """Cut out the centre of a loaded image, upright, as RGB pixels (size, size, 3)."""
    # A PNG can also name one colour as transparent instead of carrying an alpha channel.
    if "transparency" in image.info or image.mode in ("LA", "RGBA"):
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != 255:
            raise ImageProblem(name, "transparent pixels: flatten onto a background and save as 8-bit RGB")
    orientation = _orientation(image)
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    colour = image if image.mode == "RGB" else image.convert("RGB")
    square = colour.resize(
        (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side), reducing_gap=3.0
    )
    if orientation in _UPRIGHT:
        square = square.transpose(_UPRIGHT[orientation])
    return np.array(square, dtype=np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none: damaged metadata does not make the picture unusable."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except _DAMAGE:
        return 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
