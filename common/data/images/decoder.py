"""From an image file to a square of 8-bit sRGB pixels, or one sentence on why not.

Read are JPEG, PNG, TIFF, BMP, WebP, GIF, DICOM (`melfed.common.data.images.dicom_pixels`) and, with `pillow-heif`,
HEIC; the format is told from the content. Colours are converted to sRGB by the profile that a picture carries
(`melfed.common.data.images.colour`). What would need a guess (inks without a profile, samples of which only the lower
bits are in use, several frames, what lies under a transparent pixel) or is no picture (a mask of black and white) is an
`ImageProblem`, whose reason says what to convert.
"""

import contextlib
import ctypes
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from melfed.common.data.images.colour import adobe_rgb_to_srgb, is_adobe_rgb, to_srgb
from melfed.common.data.images.containers import read_member, split_member
from melfed.common.data.images.heif import is_heif, open_heif
from melfed.common.data.images.problems import PictureError
from melfed.common.errors import DataError

Pixels = npt.NDArray[np.uint8]

DECODER_VERSION: Final = 2
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
_FAITHFUL_MODES: Final = frozenset({"L", "LA", "P", "PA", "RGB", "RGBA", "YCbCr", "CMYK", "I;16", "I;16L", "I;16B"})
_MASK: Final = "only black and white, without greys: a mask, and no picture of a lesion"
_LOWER_BITS: Final = "16 bits a channel, of which only the lower ones are in use: convert to 8-bit RGB"
_DICOM_PLACE: Final = 128
_DICOM_MAGIC: Final = b"DICM"
_BLACK_AND_WHITE: Final = ({0, 255}, {(0, 0, 0), (255, 255, 255)})
_DEEPEST: Final = 16
_OPAQUE: Final = 255
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
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_NO_IMAGE: Final = "no readable image: its start is none of JPEG, PNG, TIFF, BMP, WebP, GIF, HEIC or DICOM"
_TOO_MANY_PIXELS: Final = f"more than {MAX_PIXELS // 1_000_000} megapixels, maybe a decompression bomb: make it smaller"


def _keep_libraries_silent() -> None:
    """Have libtiff and Pillow write nothing about damaged pictures to standard error: the errors say as much.

    libtiff's lines come from C, so that no logger sees them. It is told itself, once a process, through the copy of it
    that Pillow has loaded: what other threads write there stays, which a redirection of the descriptor would hide.
    """
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    libtiff = ctypes.CDLL(import_module("PIL._imaging").__file__)
    with contextlib.suppress(AttributeError):  # of a Pillow that was built without it
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)


_keep_libraries_silent()


class ImageProblem(DataError):  # noqa: N818 (a finding about one file, which the run survives)
    """An image that cannot be used; `reason` says why, in one line, and what to convert where that helps."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"{image}: {reason}")
        self.image = image
        self.reason = reason

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        return type(self), (self.image, self.reason)


class MissingDecoder(ImageProblem):
    """An image that could be used once a package is installed; `reason` names it."""


def decode(path: Path, size: int) -> Pixels:
    """Read an image file as a square of pixels.

    The picture is turned upright by its EXIF orientation, its colours are converted to sRGB, its shorter side is
    brought to `size` with antialiasing (Lanczos), and the centre is cut out.

    Returns:
        uint8 array of shape (size, size, 3), RGB.

    Raises:
        ImageProblem: the file cannot be read, or its content cannot be used.
    """
    return decode_bytes(read_file(path), size, str(path))


def read_file(path: Path) -> bytes:
    """Read a whole image file, also one inside an HDF5 file (`melfed.common.data.images.containers`).

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
    except PictureError as error:
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
        with _opened(data) as source:
            return _square(source, size)
    except PictureError as refused:
        kind = MissingDecoder if refused.mendable else ImageProblem
        raise kind(name, str(refused)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageProblem(name, _TOO_MANY_PIXELS) from error
    except UnidentifiedImageError as error:
        raise ImageProblem(name, _NO_IMAGE) from error
    except _DAMAGE as error:
        raise ImageProblem(name, f"truncated or damaged: {_one_line(error)}") from error


@dataclass(frozen=True)
class _Source:
    """A picture whose pixels may not be decoded yet, its colour profile, and whether EXIF tells how to turn it."""

    image: Image.Image
    profile: bytes | None
    exif: bool


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[_Source]:
    """Tell the format of a file's content, and read its header."""
    if data[_DICOM_PLACE : _DICOM_PLACE + len(_DICOM_MAGIC)] == _DICOM_MAGIC:
        from melfed.common.data.images.dicom_pixels import open_dicom  # pydicom takes a while to load

        picture = open_dicom(data, MAX_PIXELS)
        yield _Source(picture.image, picture.profile, exif=False)
    elif is_heif(data):
        image = open_heif(data, MAX_PIXELS)
        yield _Source(image, image.info.get("icc_profile"), exif=False)  # libheif has turned it
    else:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            yield _Source(image, image.info.get("icc_profile"), exif=True)


def _square(source: _Source, size: int) -> Pixels:
    """Cut out the centre of a picture, upright, as sRGB pixels (size, size, 3)."""
    image = source.image
    _refuse_by_header(image)
    deep = _is_deep(image)
    # JPEG can decode at a half, a quarter or an eighth: at least twice the target keeps what Lanczos needs.
    image.draft(None, (2 * size, 2 * size))
    image.load()
    # Of a loaded picture: Pillow turns TIFF by itself.
    orientation, adobe = _exif(image) if source.exif else (1, False)
    plain = _without_alpha(_in_eight_bits(image) if image.mode.startswith("I") else image)
    if deep and _brightest(plain) < 1 << 4:
        raise PictureError(_LOWER_BITS)
    if {colour for _, colour in plain.getcolors(2) or ()} in _BLACK_AND_WHITE:
        raise PictureError(_MASK)
    colour = to_srgb(plain, source.profile)
    if adobe and source.profile is None and plain.mode == "RGB":
        colour = adobe_rgb_to_srgb(colour)
    width, height = colour.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    square = colour.resize(
        (size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side), reducing_gap=3.0
    )
    if orientation in _UPRIGHT:
        square = square.transpose(_UPRIGHT[orientation])
    return np.array(square, dtype=np.uint8)


def _refuse_by_header(image: Image.Image) -> None:
    """Raise for what the header alone tells, before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise PictureError(_TOO_MANY_PIXELS)
    # A camera's MPO carries previews after the picture itself: its first image is the picture.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise PictureError("several frames: export the one that shows the lesion as a file of its own")
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"{width}×{height} pixels: the shorter side is under {MIN_SIDE}")
    if image.mode == "1":
        raise PictureError(_MASK)
    if image.mode in ("I", "F") or not _bits(image) <= _DEEPEST:
        raise PictureError("more than 16 bits a channel, or numbers that are no colours: convert to 8-bit RGB")
    if image.mode not in _FAITHFUL_MODES:
        raise PictureError(f"mode {image.mode}: convert to 8-bit RGB")


def _bits(image: Image.Image) -> int:
    """Most bits a channel in a TIFF; of other formats Pillow's mode tells."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(_TIFF_BITS_PER_SAMPLE, (8,))))
    return 8


def _is_deep(image: Image.Image) -> bool:
    """Tell, before pixels are loaded, whether there are 16 bits a channel; of RGB, Pillow keeps the upper 8."""
    tiles = getattr(image, "tile", [])
    png = image.format == "PNG" and any(";16" in str(tile[3]) for tile in tiles)
    return png or image.mode.startswith("I") or _bits(image) > 8


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits of grey: both PNG and TIFF define the largest value as white."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _without_alpha(image: Image.Image) -> Image.Image:
    """A picture of mode L, RGB or CMYK; pixels that are not opaque are refused."""
    # A PNG can also name one colour as transparent instead of carrying an alpha channel.
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != _OPAQUE:
            raise PictureError("transparent pixels: flatten onto a background and save as 8-bit RGB")
    if image.mode in ("L", "LA"):
        return image.convert("L")
    return image if image.mode in ("RGB", "CMYK") else image.convert("RGB")


def _brightest(image: Image.Image) -> int:
    extrema = image.getextrema()
    return int(max(np.ravel(extrema)))


def _exif(image: Image.Image) -> tuple[int, bool]:
    """EXIF orientation, 1 (upright) where there is none, and whether colours are stated to be in Adobe RGB.

    Damaged metadata does not make the picture unusable.
    """
    try:
        exif = image.getexif()
        return int(exif.get(_EXIF_ORIENTATION, 1)), is_adobe_rgb(exif)
    except _DAMAGE:
        return 1, False


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
