"""Pictures of known colours, and files made of them: colour profiles, DICOM, JPEG of every marking."""

import io
import struct
from pathlib import Path

import numpy as np
import pydicom
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit

CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6)
"""Bytes to be changed: where, as a share of the file, and to what."""
COLOURS = (
    *((206, 155, 136), (120, 70, 50), (230, 90, 80), (30, 30, 90)),
    *((250, 240, 230), (90, 160, 90), (60, 40, 30), (200, 200, 200)),
)
"""Skin, lesions, and what else shows a wrong conversion."""
SIDE = 64
PATCH = (SIDE // 2, SIDE // 4)
APP0 = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


def damaged(data: bytes, changes: list[tuple[float, int]], power: int, start: int = 0) -> bytes:
    """A file with changed bytes behind a place; the higher the power, the more of them in its headers."""
    spoilt = bytearray(data)
    for place, value in changes:
        spoilt[start + int(place**power * (len(data) - start))] = value
    return bytes(spoilt)


def patches() -> np.ndarray:
    """Eight patches in two rows, uint8 (64, 64, 3)."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for number, colour in enumerate(COLOURS):
        top, left = PATCH[0] * (number // 4), PATCH[1] * (number % 4)
        pixels[top : top + PATCH[0], left : left + PATCH[1]] = colour
    return pixels


def wrong_by(pixels: np.ndarray) -> int:
    """Largest difference from the known colours in the patches' centres, in levels."""
    centres = np.asarray(pixels, int)[8 :: PATCH[0], 8 :: PATCH[1]]
    return int(np.abs(centres.reshape(-1, 3) - np.array(COLOURS)).max())


def ycc(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("YCbCr"))


def file_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def adobe(transform: int) -> bytes:
    return b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])


def jpeg(
    coded: str = "YCC", markers: bytes = b"", *, subsampling: int = 0, numbered: bool = True, progressive: bool = False
) -> bytes:
    """A JPEG of the patches, coded as YCC or RGB, with these segments in front instead of Pillow's.

    `numbered`: its components are called 1, 2, 3 rather than R, G, B where they are coded as RGB.
    """
    options = {"keep_rgb": True} if coded == "RGB" else {"subsampling": subsampling}
    data = file_bytes(Image.fromarray(patches()), "JPEG", quality=98, progressive=progressive, **options)
    place = 2
    while data[place + 1] in (0xE0, 0xEE):
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    body = data[:2] + markers + data[place:]
    return _numbered(body) if numbered else body


def _numbered(data: bytes) -> bytes:
    changed, place = bytearray(data), 2
    while True:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        for i in range(3):
            if marker in (0xC0, 0xC2):
                changed[place + 10 + 3 * i] = i + 1
            elif marker == 0xDA and data[place + 4] == 3:
                changed[place + 5 + 2 * i] = i + 1
        if marker == 0xDA:
            return bytes(changed)
        place += 2 + length


def dataset(
    photometric: str = "RGB", *, samples: int = 3, bits: int = 8, syntax: str = ExplicitVRLittleEndian
) -> Dataset:
    """A VL Photographic object of the patches' size, without its pixels."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made.Rows = made.Columns = SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation = samples, photometric
    if samples > 1:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 if bits == 8 else 16
    made.BitsStored, made.HighBit, made.PixelRepresentation = bits, bits - 1, 0
    return made


def put_pixels(made: Dataset, pixels: bytes) -> Dataset:
    made.PixelData = pixels
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    return made


def native(pixels: np.ndarray | None = None, photometric: str = "RGB", **options: object) -> Dataset:
    """An uncompressed object, by default of the patches."""
    pixels = patches() if pixels is None else pixels
    return put_pixels(dataset(photometric, **options), pixels.tobytes())


def encapsulated(frame: bytes, photometric: str, syntax: str = JPEGBaseline8Bit) -> Dataset:
    return put_pixels(dataset(photometric, syntax=syntax), encapsulate([frame]))


def dicom_bytes(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    big = made.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    made.save_as(buffer, enforce_file_format=True, implicit_vr=_implicit(made), little_endian=not big)
    return buffer.getvalue()


def _implicit(made: Dataset) -> bool:
    return bool(made.file_meta.TransferSyntaxUID.is_implicit_VR)


def transcoded(made: Dataset, syntax: str, folder: Path) -> Dataset:
    """The same object in another transfer syntax, written by GDCM; the name is GDCM's."""
    import gdcm

    before, after = folder / "before.dcm", folder / "after.dcm"
    before.write_bytes(dicom_bytes(made))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(before))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(after))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return pydicom.dcmread(after)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    header = b"\0" * 4 + b"\x02\x40\0\0" + kind + space + connection + b"\0" * 12 + b"acsp" + b"\0" * 28
    header += _fixed(0.9642) + _fixed(1.0) + _fixed(0.8249)
    header += b"\0" * (124 - len(header))
    rest = header + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(rest) + 4) + rest


def _text(text: bytes) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + b"\0" * 78


def _curve(exponent: float | None) -> bytes:
    """A tone curve: a power, or sRGB's for None."""
    if exponent is not None:
        return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))
    levels = np.linspace(0, 1, 1024)
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + np.round(linear * 65535).astype(">u2").tobytes()


# Adapted to D50, as profiles store them (columns: red, green, blue).
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


def rgb_profile(primaries: np.ndarray, exponent: float | None = None) -> bytes:
    """An ICC profile of a display with these primaries (XYZ in columns, adapted to D50)."""
    tags = {b"desc": _text(b"made up"), b"wtpt": b"XYZ \0\0\0\0" + _fixed(0.9642) + _fixed(1) + _fixed(0.8249)}
    for letter, column in zip(b"rgb", primaries.T, strict=True):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + b"".join(map(_fixed, column))
        tags[bytes([letter]) + b"TRC"] = _curve(exponent)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(exponent: float) -> bytes:
    white = b"XYZ \0\0\0\0" + _fixed(0.9642) + _fixed(1) + _fixed(0.8249)
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"desc": _text(b"made up"), b"wtpt": white, b"kTRC": _curve(exponent)})


def ink_profile(lab_of_inks: dict[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """A CMYK profile that knows the CIELAB colour of full or no ink only; white paper for those not given."""
    header = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    header += b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1))) + bytes(range(256)) * 4
    table = b""
    for node in range(16):
        inks = tuple((node >> shift) & 1 for shift in (3, 2, 1, 0))
        lightness, a, b = lab_of_inks.get(inks, (100.0, 0.0, 0.0))
        table += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    return _profile(
        b"prtr", b"CMYK", b"Lab ", {b"desc": _text(b"made up"), b"A2B0": header + table + bytes(range(256)) * 3}
    )
