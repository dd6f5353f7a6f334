"""What the first bytes of a JPEG or JPEG 2000 codestream say about its picture, before any of it is decoded."""

from dataclasses import dataclass
from typing import Final

_FRAMES: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame header; 0xF7 is JPEG-LS's."""
_SCAN: Final = 0xDA
_FILL: Final = 0xFF
_ADOBE: Final = 0xEE
_JFIF: Final = 0xE0
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_START: Final = b"\xff\xd8"
_SIZ: Final = b"\xff\x4f\xff\x51"
_COD: Final = 0xFF52
_JP2: Final = b"\x00\x00\x00\x0cjP  "
_RGB_IDENTIFIERS: Final = list(b"RGB")


@dataclass(frozen=True, slots=True)
class JpegFrame:
    """A JPEG or JPEG-LS frame: size in pixels, bits a sample, and what is said about its colours.

    Attributes:
        width: pixels.
        height: pixels.
        bits: bits a sample.
        components: 1 for grey, 3 for colour, 4 for CMYK.
        coded_rgb: whether three components are red, green and blue rather than luminance and chroma; None where the
            codestream leaves it open.
        marked: whether it says so by a JFIF or Adobe segment, which every decoder heeds.
    """

    width: int
    height: int
    bits: int
    components: int
    coded_rgb: bool | None
    marked: bool


@dataclass(frozen=True, slots=True)
class Jpeg2000Stream:
    """A JPEG 2000 codestream: size in pixels, bits a sample, and whether its decoder turns the colours into RGB."""

    width: int
    height: int
    bits: int
    components: int
    transformed: bool


def jpeg_frame(data: bytes) -> JpegFrame:
    """Read the headers of a JPEG or JPEG-LS codestream.

    Raises:
        ValueError: it is none, or cut off within its headers.
    """
    if data[:2] != _START:
        raise ValueError("no JPEG")
    place, jfif, adobe = 2, False, None
    while True:
        marker, length = _segment(data, place)
        content = data[place + 4 : place + 2 + length]
        if marker == _JFIF and content.startswith(b"JFIF\0"):
            jfif = True
        elif marker == _ADOBE and content.startswith(b"Adobe") and len(content) > 11:
            adobe = content[11]
        elif marker in _FRAMES:
            return _frame(content, jfif, adobe)
        elif marker == _SCAN:
            raise ValueError("a scan before the frame")
        place += 2 + length


def _segment(data: bytes, place: int) -> tuple[int, int]:
    """Marker of the segment that begins at a place, and its length without the marker."""
    if place + 4 > len(data) or data[place] != 0xFF:
        raise ValueError("no segment of a JPEG")
    marker = data[place + 1]
    if marker == _FILL:
        return marker, -1  # the next byte may be the marker
    if marker in _STANDALONE:
        return marker, 0
    length = int.from_bytes(data[place + 2 : place + 4], "big")
    if length < 2:
        raise ValueError("a segment of no length")
    return marker, length


def _frame(content: bytes, jfif: bool, adobe: int | None) -> JpegFrame:
    count = content[5] if len(content) > 5 else 0
    if len(content) < 6 + 3 * count:
        raise ValueError("a frame header that is cut off")
    parts = [tuple(content[6 + 3 * i : 9 + 3 * i]) for i in range(count)]  # identifier, sampling, quantisation table
    coded_rgb: bool | None = None
    if jfif:
        coded_rgb = False
    elif adobe is not None:
        coded_rgb = adobe == 0
    elif [part[0] for part in parts] == _RGB_IDENTIFIERS:
        coded_rgb = True
    # Chroma is sampled more coarsely or quantised by a table of its own; of red, green and blue none has less.
    elif count == 3 and any(part[1:] != parts[0][1:] for part in parts):
        coded_rgb = False
    return JpegFrame(
        width=int.from_bytes(content[3:5], "big"),
        height=int.from_bytes(content[1:3], "big"),
        bits=content[0],
        components=count,
        coded_rgb=coded_rgb,
        marked=jfif or adobe is not None,
    )


def with_adobe(data: bytes, *, rgb: bool) -> bytes:
    """A JPEG codestream with an Adobe segment that says whether it is coded as RGB, for decoders that heed it."""
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([0 if rgb else 1]) + data[2:]


def jpeg2000_stream(data: bytes) -> Jpeg2000Stream:
    """Read the headers of a JPEG 2000 codestream, bare or in a JP2 file.

    Raises:
        ValueError: it is none, or cut off within its headers.
    """
    start = data.find(_SIZ) if data.startswith(_JP2) else 0
    if start < 0 or data[start : start + 4] != _SIZ:
        raise ValueError("no JPEG 2000")
    siz = data[start + 4 : start + 4 + int.from_bytes(data[start + 4 : start + 6], "big")]
    if len(siz) < 41:
        raise ValueError("a header that is cut off")
    right, bottom, left, top = (int.from_bytes(siz[i : i + 4], "big") for i in (4, 8, 12, 16))
    return Jpeg2000Stream(
        width=right - left,
        height=bottom - top,
        bits=(siz[38] & 0x7F) + 1,
        components=int.from_bytes(siz[36:38], "big"),
        transformed=_component_transform(data, start + 4 + len(siz)),
    )


def _component_transform(data: bytes, place: int) -> bool:
    """Whether the coding style says that three components were transformed together."""
    while place + 9 < len(data):
        marker = int.from_bytes(data[place : place + 2], "big")
        if marker == _COD:
            return data[place + 8] == 1
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if length < 2:
            break
        place += 2 + length
    raise ValueError("no coding style")
