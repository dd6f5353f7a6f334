"""The picture in a DICOM file, as 8-bit pixels with its colour profile.

The attributes of a file and the codestream in it may contradict each other about colours. What a codestream says of
itself is believed, since it was made together with the pixels: JFIF and Adobe segments, coarser chroma, and JPEG 2000's
component transform. Else the photometric interpretation decides. A decoder's own conversion is never asked for, as the
decoders differ in it.

No message quotes an attribute, nor what a library says, which may quote one.
"""

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from melfed.common.data.images.codestream import Jpeg2000Stream, JpegFrame, jpeg2000_stream, jpeg_frame, with_adobe
from melfed.common.data.images.decode_apart import decode_apart
from melfed.common.data.images.dicom import DAMAGE, DEFLATED, transfer_syntax
from melfed.common.data.images.problems import PictureError

_NATIVE: Final = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_PROGRESSIVE: Final = frozenset({"1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"})
"""Retired syntaxes of progressive JPEG, in which dcmtk's img2dcm wraps such files."""
_DCT: Final = frozenset({str(JPEGBaseline8Bit), str(JPEGExtended12Bit)}) | _PROGRESSIVE
_WAVELET: Final = frozenset(map(str, (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)))
_LS: Final = frozenset(map(str, (JPEGLSLossless, JPEGLSNearLossless)))
_LOSSLESS: Final = frozenset(map(str, (JPEGLossless, JPEGLosslessSV1)))
_PLUGINS: Final = {
    **dict.fromkeys(_WAVELET, "pylibjpeg"),
    **dict.fromkeys(_LS, "pyjpegls"),
    str(RLELossless): "pydicom",
}
"""One decoder each, so that pixels do not depend on what else is installed; GDCM has the others."""
_YBR: Final = frozenset({"YBR_FULL", "YBR_FULL_422"})
_TRANSFORMED: Final = frozenset({"YBR_ICT", "YBR_RCT"})
_GREY: Final = frozenset({"MONOCHROME1", "MONOCHROME2"})
_PALETTE: Final = "PALETTE COLOR"
_BYTE: Final = 8

_DAMAGED: Final = "truncated or damaged DICOM file"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DicomPicture:
    """A picture, maybe not decoded yet: RGB or grey, 8 bits a sample, with the ICC profile that its colours are in."""

    image: Image.Image
    profile: bytes | None


def open_dicom(data: bytes, most_pixels: int) -> DicomPicture:
    """Read the picture of a DICOM file: of several frames the one named as representative, else the first.

    Args:
        data: the content of the file.
        most_pixels: width × height that is decoded at most.

    Raises:
        PictureError: there is no picture in it that can be used.
    """
    try:
        syntax = transfer_syntax(io.BytesIO(data))
        if syntax == DEFLATED:
            raise PictureError("DICOM, deflated as a whole: export it uncompressed or as JPEG")
        dataset = pydicom.dcmread(io.BytesIO(data))
        _refuse(dataset, syntax, most_pixels)
        image, own_profile = _picture(data, dataset, syntax or "", most_pixels)
        return DicomPicture(image, _profile(dataset) or own_profile)
    except DAMAGE:
        raise PictureError(_DAMAGED) from None  # what a library says may quote an attribute
    except MemoryError:
        raise PictureError("DICOM file that does not fit into the memory: make it smaller") from None


def _refuse(dataset: Any, syntax: str | None, most_pixels: int) -> None:
    """Raise for what the attributes alone tell."""
    if "PixelData" not in dataset:
        raise PictureError("DICOM without pixels (a report, a waveform or the like): export the picture")
    if syntax not in _NATIVE | _DCT | _WAVELET | _LS | _LOSSLESS | {str(RLELossless)}:
        raise PictureError("DICOM in an encoding that is not read (a video?): export it uncompressed or as JPEG")
    if int(dataset.Rows) * int(dataset.Columns) > most_pixels:
        raise PictureError(_too_many(most_pixels))
    photometric = str(dataset.PhotometricInterpretation)
    if photometric not in _YBR | _TRANSFORMED | _GREY | {"RGB", _PALETTE}:
        raise PictureError("DICOM in colours that are not read (photometric interpretation): export it as RGB")
    if int(dataset.get("PixelRepresentation", 0)) or not _BYTE <= int(dataset.BitsStored) <= 2 * _BYTE:
        raise PictureError("DICOM with signed pixels or other than 8 to 16 bits: export it as 8-bit RGB")


def _picture(data: bytes, dataset: Any, syntax: str, most_pixels: int) -> tuple[Image.Image, bytes | None]:
    index = int(dataset.get("RepresentativeFrameNumber", 1)) - 1
    converted = False
    if syntax not in _NATIVE | {str(RLELossless)}:
        coded = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames", None) or 1))
        stream = jpeg2000_stream(coded) if syntax in _WAVELET else jpeg_frame(coded)
        _refuse_size(stream.width, stream.height, stream.components, dataset, most_pixels)
        if syntax in _DCT and isinstance(stream, JpegFrame):
            if stream.bits == _BYTE:
                return _jpeg(coded, stream, dataset)
            raise PictureError("DICOM in JPEG of more than 8 bits a channel: export it as 8-bit RGB")
        converted = isinstance(stream, Jpeg2000Stream) and stream.transformed
    if syntax in _LOSSLESS:
        pixels = decode_apart(data, index)
    else:
        pixels = pixel_array(dataset, index=index, raw=True, decoding_plugin=_PLUGINS.get(syntax, ""))
    return _in_eight_bits(pixels, dataset, converted), None


def _jpeg(coded: bytes, frame: JpegFrame, dataset: Any) -> tuple[Image.Image, bytes | None]:
    """A picture that Pillow decodes from a DCT codestream, told how its colours are coded where that says nothing."""
    if frame.components == 3 and not frame.marked:
        rgb = frame.coded_rgb if frame.coded_rgb is not None else str(dataset.PhotometricInterpretation) == "RGB"
        coded = with_adobe(coded, rgb=rgb)
    image = Image.open(io.BytesIO(coded), formats=("JPEG",))
    profile = image.info.get("icc_profile")
    if str(dataset.PhotometricInterpretation) == "MONOCHROME1":
        return Image.fromarray(255 - np.asarray(image.convert("L"))), profile
    return image, profile


def _in_eight_bits(pixels: Any, dataset: Any, converted: bool) -> Image.Image:
    """RGB or grey pixels from what a decoder gives; `converted`: it is RGB whatever the attributes say."""
    photometric, bits = str(dataset.PhotometricInterpretation), int(dataset.BitsStored)
    if photometric == _PALETTE:
        return Image.fromarray(_looked_up(pixels, dataset))
    if bits > _BYTE:
        pixels = _upper_byte(pixels, bits)
    if photometric in _GREY:
        return Image.fromarray(255 - pixels if photometric == "MONOCHROME1" else pixels)
    if photometric in _YBR and not converted:
        pixels = convert_color_space(pixels, "YBR_FULL", "RGB")
    return Image.fromarray(np.ascontiguousarray(pixels, np.uint8))


def _looked_up(pixels: Any, dataset: Any) -> Pixels:
    colours = apply_color_lut(pixels, dataset)
    # Entries of 16 bits that hold 8-bit values are as common as those that use all of them.
    deep = colours.dtype.itemsize > 1 and int(colours.max()) > 255
    return np.ascontiguousarray(colours >> _BYTE if deep else colours, np.uint8)


def _upper_byte(pixels: Any, bits: int) -> Pixels:
    upper: Pixels = ((pixels & ((1 << bits) - 1)) >> (bits - _BYTE)).astype(np.uint8)
    if int(upper.max()) < 16:
        raise PictureError("DICOM of which only the lower bits are in use: export it as 8-bit RGB")
    return upper


def _refuse_size(width: int, height: int, components: int, dataset: Any, most_pixels: int) -> None:
    """Raise where a codestream is of another size than the attributes say; its decoder believes the codestream."""
    if width * height > most_pixels:
        raise PictureError(_too_many(most_pixels))
    if (width, height, components) != (dataset.Columns, dataset.Rows, dataset.SamplesPerPixel):
        raise PictureError("DICOM whose attributes and picture are of different size: export it anew")


def _too_many(most_pixels: int) -> str:
    return f"DICOM of more than {most_pixels // 1_000_000} megapixels, maybe a decompression bomb: make it smaller"


def _profile(dataset: Any) -> bytes | None:
    """The ICC profile of the attributes; it stands at the top, or with the optical path."""
    paths = dataset.get("OpticalPathSequence") or [dataset]
    found = dataset.get("ICCProfile") or paths[0].get("ICCProfile")
    return bytes(found) if found else None
