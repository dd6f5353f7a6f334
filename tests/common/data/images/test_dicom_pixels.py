"""A picture of known colours comes out of every encoding and header as what it is."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    RLELossless,
)

from melfed.common.data.images.decoder import ImageProblem, decode_bytes
from tests.common.data.made_pictures import (
    APP0,
    CHANGES,
    DISPLAY_P3,
    SIDE,
    adobe,
    damaged,
    dataset,
    dicom_bytes,
    encapsulated,
    file_bytes,
    jpeg,
    native,
    patches,
    put_pixels,
    rgb_profile,
    transcoded,
    wrong_by,
    ycc,
)

PROGRESSIVE = "1.2.840.10008.1.2.4.55"


def decoded(made: Dataset | bytes) -> np.ndarray:
    return decode_bytes(made if isinstance(made, bytes) else dicom_bytes(made), SIDE)


def reason(made: Dataset | bytes) -> str:
    with pytest.raises(ImageProblem) as caught:
        decoded(made)
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_uncompressed(syntax: str, photometric: str) -> None:
    pixels = patches() if photometric == "RGB" else ycc(patches())
    assert wrong_by(decoded(native(pixels, photometric, syntax=syntax))) <= 2


def test_uncompressed_by_planes() -> None:
    made = native(patches().transpose(2, 0, 1))
    made.PlanarConfiguration = 1
    assert wrong_by(decoded(made)) == 0


def test_uncompressed_with_half_the_chroma() -> None:
    luminance = ycc(patches())
    packed = np.stack(
        [luminance[:, ::2, 0], luminance[:, 1::2, 0], luminance[:, ::2, 1], luminance[:, ::2, 2]], axis=-1
    )
    assert wrong_by(decoded(native(packed, "YBR_FULL_422"))) <= 2


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_run_lengths(photometric: str) -> None:
    made = native(patches() if photometric == "RGB" else ycc(patches()), photometric)
    made.compress(RLELossless, generate_instance_uid=False)
    assert wrong_by(decoded(made)) <= 2


@pytest.mark.parametrize("stated", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", JPEGExtended12Bit, PROGRESSIVE])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("markers", [APP0, adobe(1), APP0 + adobe(1), b""])
def test_jpeg_coded_as_luminance_and_chroma(stated: str, syntax: str, subsampling: int, markers: bytes) -> None:
    frame = jpeg("YCC", markers, subsampling=subsampling, progressive=syntax == PROGRESSIVE)
    assert wrong_by(decoded(encapsulated(frame, stated, syntax))) <= 3


@pytest.mark.parametrize(
    ("stated", "markers", "numbered"),
    [
        *((stated, adobe(0), numbered) for stated in ("RGB", "YBR_FULL_422", "YBR_FULL") for numbered in (True, False)),
        *((stated, b"", False) for stated in ("RGB", "YBR_FULL_422", "YBR_FULL")),
        ("RGB", b"", True),
    ],
)
def test_jpeg_coded_as_red_green_blue(stated: str, markers: bytes, numbered: bool) -> None:
    assert wrong_by(decoded(encapsulated(jpeg("RGB", markers, numbered=numbered), stated))) <= 2


@pytest.mark.parametrize("written", ["RGB", "YBR_FULL"])
def test_jpeg_that_gdcm_writes_whatever_it_states(written: str, tmp_path: Path) -> None:
    """GDCM codes RGB as luminance and chroma, and leaves the attribute at RGB."""
    made = native(patches(), "RGB")
    coded = transcoded(made, "JPEGBaselineProcess1", tmp_path)
    coded.PhotometricInterpretation = written
    assert wrong_by(decoded(coded)) <= 2


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000"])
def test_lossless(photometric: str, syntax: str, tmp_path: Path) -> None:
    made = native(patches() if photometric == "RGB" else ycc(patches()), photometric)
    assert wrong_by(decoded(transcoded(made, syntax, tmp_path))) <= 2


@pytest.mark.parametrize("stated", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL"])
def test_jpeg_2000_that_transforms_its_colours_is_not_converted_again(stated: str) -> None:
    made = native()
    made.PhotometricInterpretation = "YBR_RCT"
    made.compress(JPEG2000Lossless, generate_instance_uid=False)
    made.PhotometricInterpretation = stated
    assert wrong_by(decoded(made)) == 0


def test_jpeg_2000_that_does_not_transform_is_converted_by_the_attribute() -> None:
    made = native(ycc(patches()), "YBR_FULL")
    made.compress(JPEG2000Lossless, generate_instance_uid=False)
    assert wrong_by(decoded(made)) <= 2


@pytest.mark.parametrize(("bits", "factor"), [(8, 1), (16, 1), (16, 256), (16, 257)])
def test_palette(bits: int, factor: int) -> None:
    indexed = Image.fromarray(patches()).quantize(len(np.unique(patches().reshape(-1, 3), axis=0)))
    colours = np.array(indexed.getpalette(), np.uint16).reshape(-1, 3) * factor
    made = native(np.asarray(indexed), "PALETTE COLOR", samples=1)
    for number, name in enumerate(("Red", "Green", "Blue")):
        entries = colours[:, number].astype("<u2" if bits == 16 else np.uint8)
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [len(colours), 0, bits])
        setattr(made, f"{name}PaletteColorLookupTableData", entries.tobytes())
    assert wrong_by(decoded(made)) == 0


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_grey(photometric: str, bits: int) -> None:
    grey = np.asarray(Image.fromarray(patches()).convert("L"))
    stored = 255 - grey if photometric == "MONOCHROME1" else grey
    stored = stored if bits == 8 else stored.astype(np.uint16) << (bits - 8)
    pixels = decoded(native(stored, photometric, samples=1, bits=bits))
    assert np.array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bits_a_channel() -> None:
    assert wrong_by(decoded(native(patches().astype(np.uint16) * 257, bits=16))) == 0


def test_sixteen_bits_of_which_the_upper_are_empty() -> None:
    assert "lower bits" in reason(native(patches().astype(np.uint16), bits=16))


def frames(representative: int | None) -> Dataset:
    made = native(np.stack([patches()[::-1], patches()]))
    made.NumberOfFrames = 2
    if representative is not None:
        made.RepresentativeFrameNumber = representative
    return made


@pytest.mark.parametrize("compress", [False, True])
def test_representative_frame_of_several(compress: bool) -> None:
    made, first = frames(2), frames(None)
    if compress:
        made.compress(RLELossless, generate_instance_uid=False)
        first.compress(JPEG2000Lossless, generate_instance_uid=False)
    assert wrong_by(decoded(made)) == 0
    assert wrong_by(decoded(first)[::-1]) == 0


def in_display_p3() -> np.ndarray:
    """The patches as a camera stores them that works in Display P3."""
    from PIL import ImageCms

    made = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile(DISPLAY_P3)))
    image = ImageCms.profileToProfile(Image.fromarray(patches()), ImageCms.createProfile("sRGB"), made)
    assert image is not None
    return np.asarray(image)


def test_colour_profile_of_the_attributes_is_applied_once() -> None:
    made = native(in_display_p3())
    made.ICCProfile = rgb_profile(DISPLAY_P3)
    data = dicom_bytes(made)
    assert wrong_by(decoded(native(in_display_p3()))) > 10
    for _ in range(3):
        assert wrong_by(decoded(data)) <= 3


def test_colour_profile_of_the_optical_path() -> None:
    made, path = native(in_display_p3()), Dataset()
    path.ICCProfile = rgb_profile(DISPLAY_P3)
    made.OpticalPathSequence = [path]
    assert wrong_by(decoded(made)) <= 3


@pytest.mark.parametrize("in_attributes", [False, True])
def test_colour_profile_within_the_jpeg_is_applied_once(in_attributes: bool) -> None:
    profile = rgb_profile(DISPLAY_P3)
    frame = file_bytes(Image.fromarray(in_display_p3()), "JPEG", quality=98, subsampling=0, icc_profile=profile)
    made = encapsulated(frame, "YBR_FULL_422")
    if in_attributes:
        made.ICCProfile = profile
    assert wrong_by(decoded(made)) <= 4


def test_exif_of_the_frame_does_not_turn_a_dicom_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    frame = file_bytes(Image.fromarray(patches()), "JPEG", quality=98, subsampling=0, exif=exif)
    assert wrong_by(decoded(encapsulated(frame, "YBR_FULL_422"))) <= 3


def bomb(syntax: str) -> Dataset:
    made = native()
    made.compress(syntax, generate_instance_uid=False)
    made.Rows = made.Columns = 60_000
    return made


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_pictures_too_large_by_their_attributes(syntax: str) -> None:
    assert "megapixels" in reason(bomb(syntax))


def test_codestream_larger_than_its_attributes() -> None:
    frame = bytearray(jpeg("YCC", APP0))
    place = frame.index(b"\xff\xc0")
    frame[place + 5 : place + 9] = b"\xff\xff\xff\xff"
    assert "megapixels" in reason(encapsulated(bytes(frame), "YBR_FULL_422"))
    frame[place + 5 : place + 9] = b"\x01\x00\x01\x00"
    assert "different size" in reason(encapsulated(bytes(frame), "YBR_FULL_422"))


def test_jpeg_2000_codestream_larger_than_its_attributes() -> None:
    made = native()
    made.compress(JPEG2000Lossless, generate_instance_uid=False)
    place = made.PixelData.index(b"\xff\x4f\xff\x51")
    changed = bytearray(made.PixelData)
    changed[place + 8 : place + 16] = b"\x00\x01\x00\x00\x00\x01\x00\x00"
    made.PixelData = bytes(changed)
    assert "megapixels" in reason(made)


def changed(made: Dataset, **values: object) -> Dataset:
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (dataset, "DICOM without pixels"),
        (lambda: native(syntax=DeflatedExplicitVRLittleEndian), "deflated"),
        (lambda: encapsulated(b"\0" * 100, "YBR_FULL_422", MPEG4HP41), "a video?"),
        (lambda: changed(native(), PixelRepresentation=1), "signed"),
        (lambda: changed(native(), PhotometricInterpretation="HSV"), "photometric interpretation"),
        (lambda: encapsulated(b"no JPEG at all", "YBR_FULL_422"), "damaged DICOM"),
        (lambda: put_pixels(dataset(), b"\0" * 100), "damaged DICOM"),
        (lambda: changed(frames(None), RepresentativeFrameNumber=7), "damaged DICOM"),
    ],
)
def test_reasons(made: object, words: str) -> None:
    assert words in reason(made())  # type: ignore[operator]


def test_bare_beginning_of_a_dicom_file() -> None:
    assert "DICOM" in reason(bytes(128) + b"DICM")


def test_jpeg_of_twelve_bits() -> None:
    frame = bytearray(jpeg("YCC", APP0))
    frame[frame.index(b"\xff\xc0") + 4] = 12
    made = changed(encapsulated(bytes(frame), "YBR_FULL_422", JPEGExtended12Bit), BitsAllocated=16, BitsStored=12)
    assert "more than 8 bits a channel" in reason(made)


ENCODED = {
    "native": dicom_bytes(native()),
    "jpeg": dicom_bytes(encapsulated(jpeg("YCC", APP0), "YBR_FULL_422")),
}
SECRET = "Mustermann"


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(sorted(ENCODED)),
    changes=CHANGES,
)
@pytest.mark.filterwarnings("ignore")
def test_damage_never_ends_in_anything_but_a_problem(kind: str, changes: list[tuple[float, int]]) -> None:
    with contextlib.suppress(ImageProblem):
        assert decode_bytes(damaged(ENCODED[kind], changes, 3, start=132), 32).shape == (32, 32, 3)


def test_no_attribute_is_told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    made = native()
    made.PatientName, made.PatientID = SECRET, SECRET
    made.PhotometricInterpretation = SECRET.upper()
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    data = bytearray(dicom_bytes(made))
    for wrong in (bytes(data), bytes(data[:-100]), bytes(data[: len(data) // 100])):
        assert SECRET.lower() not in reason(wrong).lower()
    heard = caplog.text + "".join(capfd.readouterr())
    assert SECRET.lower() not in heard.lower()
