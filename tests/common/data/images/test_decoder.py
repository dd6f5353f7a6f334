import contextlib
import io
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from melfed.common.data.images.decoder import MAX_PIXELS, MIN_SIDE, ImageProblem, decode, decode_bytes
from melfed.common.errors import DataError
from tests.common.data.images.test_colour import srgb_of_lab, stored_in
from tests.common.data.made_pictures import (
    ADOBE_RGB,
    CHANGES,
    DISPLAY_P3,
    SIDE,
    damaged,
    ink_profile,
    patches,
    rgb_profile,
    wrong_by,
)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int, height: int) -> Image.Image:
    """A smooth picture without any symmetry, so that a wrong crop or turn is seen."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * x / width, 255 * y / height, 127 + 100 * np.sin(6 * x / width) * np.cos(3 * y / height)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def expected(image: Image.Image, size: int) -> np.ndarray:
    """The same square by the slow road: crop the original, then resize it without any shortcut."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def reason(data: bytes) -> str:
    with pytest.raises(ImageProblem) as caught:
        decode_bytes(data, 32, "lesion.img")
    assert str(caught.value) == f"lesion.img: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of any size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b"x"), (b"IEND", b"")]
    body = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}),
    ],
)
def test_all_formats_give_the_picture(kind: str, options: dict[str, object]) -> None:
    image = picture(300, 200)
    pixels = decode_bytes(encode(image, kind, **options), 64)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert largest_difference(pixels, expected(image, 64)) <= 5


def test_first_picture_of_a_camera_file_with_previews_is_taken() -> None:
    image = picture(300, 200)
    data = encode(image, "MPO", save_all=True, append_images=[image.rotate(180)], quality=95)
    assert largest_difference(decode_bytes(data, 64), expected(image, 64)) <= 5


@pytest.mark.parametrize(("width", "size"), [(600, 64), (2400, 224)])
def test_large_originals_are_decoded_at_a_fraction_without_loss(width: int, size: int) -> None:
    grains = np.random.default_rng(0).integers(0, 256, (size * 2 // 3, size, 3), dtype=np.uint8)
    image = Image.fromarray(grains).resize((width, width * 2 // 3), Image.Resampling.BICUBIC)
    pixels = decode_bytes(encode(image, "JPEG", quality=95, subsampling=0), size)
    assert largest_difference(pixels, expected(image, size)) <= 6


@settings(deadline=None, max_examples=25)
@given(width=st.integers(MIN_SIDE, 400), height=st.integers(MIN_SIDE, 400), size=st.sampled_from([16, 33, 64]))
def test_centre_square_of_any_aspect_ratio(width: int, height: int, size: int) -> None:
    image = picture(width, height)
    pixels = decode_bytes(encode(image, "PNG"), size)
    assert pixels.shape == (size, size, 3)
    # The reduction before the last resize costs a little accuracy at the border.
    difference = np.abs(pixels.astype(int) - expected(image, size).astype(int))
    assert difference.mean() <= 1.5


def test_edges_of_a_wide_picture_are_cut_off() -> None:
    canvas = np.zeros((100, 300, 3), dtype=np.uint8)
    canvas[:, 110:190] = 200  # inside the centre square, whose columns are 100 to 199
    pixels = decode_bytes(encode(Image.fromarray(canvas), "PNG"), 100)
    assert (pixels[:, 12:88] > 190).all()
    assert (pixels[:, :8] < 10).all()
    assert (pixels[:, 92:] < 10).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    stored = picture(240, 160)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    pixels = decode_bytes(encode(stored, kind, exif=exif, **options), 40)
    as_array = np.asarray(stored)
    upright = {
        1: as_array,
        2: as_array[:, ::-1],
        3: as_array[::-1, ::-1],
        4: as_array[::-1],
        5: as_array.transpose(1, 0, 2),
        6: np.rot90(as_array, -1),
        7: as_array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(as_array),
    }[orientation]
    assert largest_difference(pixels, expected(Image.fromarray(np.ascontiguousarray(upright)), 40)) <= 5


@pytest.mark.parametrize("exif", [b"II*\x00\xff\xff\xff\x7fgarbage", b"no TIFF header"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_spoil_the_picture(exif: bytes) -> None:
    image = picture(100, 100)
    data = encode(image, "PNG", exif=b"Exif\x00\x00" + exif)
    assert largest_difference(decode_bytes(data, 50), expected(image, 50)) <= 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_grey_and_opaque_alpha_are_converted(mode: str) -> None:
    image = picture(80, 60).convert(mode)
    pixels = decode_bytes(encode(image, "PNG"), 40)
    assert largest_difference(pixels, expected(image.convert("RGB"), 40)) <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palettes_are_looked_up(kind: str) -> None:
    image = picture(80, 60).quantize(200)
    pixels = decode_bytes(encode(image, kind), 40)
    assert largest_difference(pixels, expected(image.convert("RGB"), 40)) <= 1


def test_palette_with_a_transparent_entry_that_is_used_is_refused() -> None:
    image = picture(80, 60).quantize(200)
    assert "transparent" in reason(encode(image, "PNG", transparency=image.getpixel((5, 5))))
    unused = np.asarray(image).copy()
    unused[unused == 7] = 8
    image.putdata(unused.ravel().tolist())
    assert decode_bytes(encode(image, "PNG", transparency=7), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_grey_keeps_its_upper_bits(kind: str) -> None:
    grey = np.asarray(picture(64, 64).convert("L"))
    for factor in (257, 256):
        pixels = decode_bytes(encode(Image.fromarray(grey.astype(np.uint16) * factor), kind), 64)
        assert np.array_equal(pixels[..., 0], grey)


def test_deep_colours_keep_their_upper_bits() -> None:
    image = np.asarray(picture(64, 64))
    for factor in (257, 256):
        assert np.array_equal(decode_bytes(deep_rgb_png(image.astype(np.uint16) * factor), 64), image)


def deep_rgb_tiff(pixels: np.ndarray) -> bytes:
    """16-bit RGB, uncompressed in one strip, which Pillow reads but cannot write."""
    data = pixels.astype("<u2").tobytes()
    entries = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 200)]
    entries += [(277, 3, 1, 3), (278, 3, 1, 64), (279, 4, 1, len(data))]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    start = b"II*\x00" + struct.pack("<I", 16) + struct.pack("<HHHH", 16, 16, 16, 0)
    return (start + struct.pack("<H", len(entries)) + table + bytes(4)).ljust(200, b"\0") + data


def test_deep_colours_of_tiff_keep_their_upper_bits() -> None:
    image = np.asarray(picture(64, 64))
    assert np.array_equal(decode_bytes(deep_rgb_tiff(image.astype(np.uint16) * 257), 64), image)
    assert "lower ones" in reason(deep_rgb_tiff(image.astype(np.uint16)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_colours_of_a_phone_are_converted(kind: str) -> None:
    profile = rgb_profile(DISPLAY_P3)
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encode(stored_in(profile), kind, icc_profile=profile, **options)
    assert wrong_by(decode_bytes(data, SIDE)) <= 4
    without = encode(stored_in(profile), kind, icc_profile=None, **options)
    assert wrong_by(decode_bytes(without, SIDE)) > 10


def adobe_exif(mark: str) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0xA001: 0xFFFF, 0xA005: {1: mark}})
    return exif


def test_cameras_that_work_in_adobe_rgb_are_believed() -> None:
    """They write a mark into EXIF and no profile."""
    profile = rgb_profile(ADOBE_RGB, 563 / 256)
    stored = stored_in(profile)
    options = {"quality": 98, "subsampling": 0}
    marked = encode(stored, "JPEG", icc_profile=None, exif=adobe_exif("R03"), **options)
    assert wrong_by(decode_bytes(marked, SIDE)) <= 4
    assert wrong_by(decode_bytes(encode(stored, "JPEG", icc_profile=None, **options), SIDE)) > 10
    both = encode(stored, "JPEG", icc_profile=profile, exif=adobe_exif("R03"), **options)
    assert wrong_by(decode_bytes(both, SIDE)) <= 4
    plain = encode(Image.fromarray(patches()), "JPEG", exif=adobe_exif("R98"), **options)
    assert wrong_by(decode_bytes(plain, SIDE)) <= 3


def test_palette_and_transparency_are_converted_by_the_profile_too() -> None:
    profile = rgb_profile(DISPLAY_P3)
    for mode in ("P", "RGBA"):
        image = stored_in(profile).quantize(64) if mode == "P" else stored_in(profile).convert(mode)
        assert wrong_by(decode_bytes(encode(image, "PNG", icc_profile=profile), SIDE)) <= 4


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_converted_by_their_profile(kind: str) -> None:
    profile = ink_profile({(0, 1, 1, 0): (45.0, 60.0, 40.0)})
    red = encode(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), kind, icc_profile=profile)
    assert np.abs(decode_bytes(red, 32).astype(int) - srgb_of_lab(45.0, 60.0, 40.0)).max() <= 3


def test_transparent_pixels_are_refused() -> None:
    image = picture(80, 60).convert("RGBA")
    image.putpixel((3, 3), (1, 2, 3, 254))
    assert "transparent" in reason(encode(image, "PNG"))


def test_transparent_colour_is_refused() -> None:
    image = picture(80, 60)
    assert "transparent" in reason(encode(image, "PNG", transparency=image.getpixel((5, 5))))


def first_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


DEEP = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)


def deep_rgb_png(pixels: np.ndarray) -> bytes:
    """16-bit RGB of shape (64, 64, 3), which Pillow reads but cannot write."""
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


MASKS = [picture(64, 64).convert("1").convert(mode) for mode in ("1", "L", "P", "RGB")]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"image,target\nISIC_1,0\n" * 50, "no readable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "no readable image"),
        (first_half(encode(picture(200, 200), "JPEG")), "truncated or damaged"),
        (first_half(encode(picture(200, 200), "PNG")), "truncated or damaged"),
        (first_half(encode(picture(200, 200), "BMP")), "truncated or damaged"),
        (encode(Image.fromarray(np.asarray(DEEP) >> 4), "PNG"), "only the lower ones are in use: convert to 8-bit"),
        (encode(Image.fromarray(np.asarray(DEEP) >> 4), "TIFF"), "only the lower ones are in use: convert to 8-bit"),
        (deep_rgb_png(np.full((64, 64, 3), 255)), "only the lower ones are in use: convert to 8-bit RGB"),
        (encode(DEEP.convert("F"), "TIFF"), "numbers that are no colours: convert to 8-bit RGB"),
        (encode(DEEP.convert("I"), "TIFF"), "numbers that are no colours: convert to 8-bit RGB"),
        (encode(picture(64, 64).convert("CMYK"), "JPEG"), "CMYK without a usable colour profile: convert to 8-bit"),
        (encode(picture(64, 64).convert("CMYK"), "TIFF"), "CMYK without a usable colour profile: convert to 8-bit"),
        *((encode(mask, kind), "without greys: a mask") for mask in MASKS for kind in ("PNG", "TIFF", "BMP")),
        (encode(picture(64, 64).convert("1"), "GIF"), "without greys: a mask"),
        (encode(Image.new("LAB", (64, 64)), "TIFF"), "mode LAB: convert to 8-bit RGB"),
        (encode(picture(MIN_SIDE - 1, 300), "PNG"), "the shorter side is under 16"),
        (png_header(MAX_PIXELS // 8000 + 1, 8000), "megapixels"),
        (png_header(100_000, 100_000), "megapixels"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_reasons(data: bytes, words: str) -> None:
    assert words in reason(data)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_several_frames_are_refused(kind: str) -> None:
    image = picture(64, 64)
    assert "several frames" in reason(encode(image, kind, save_all=True, append_images=[image.rotate(90)]))


ENCODED = {
    kind: encode(picture(48, 40), kind, **options)
    for kind, options in {"JPEG": {"quality": 90}, "PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": {}}.items()
}


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(sorted(ENCODED)), share=st.floats(0, 1, exclude_max=True))
@pytest.mark.filterwarnings("ignore:Truncated File Read")
def test_cut_off_anywhere_is_a_problem_or_the_whole_picture(kind: str, share: float) -> None:
    data = ENCODED[kind]
    whole = decode_bytes(data, 32)
    try:
        pixels = decode_bytes(data[: int(share * len(data))], 32)
    except ImageProblem:
        return
    # What is missing was behind the last pixel.
    assert largest_difference(pixels, whole) == 0


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(sorted(ENCODED)),
    changes=CHANGES,
)
@pytest.mark.filterwarnings("ignore")
def test_damage_never_ends_in_anything_but_a_problem(kind: str, changes: list[tuple[float, int]]) -> None:
    with contextlib.suppress(ImageProblem):
        assert decode_bytes(damaged(ENCODED[kind], changes, 2), 32).shape == (32, 32, 3)


def test_decode_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lesion.png"
    picture(60, 60).save(path)
    assert np.array_equal(decode(path, 32), decode_bytes(path.read_bytes(), 32))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: cannot be read: No such file"):
        decode(tmp_path / "none.jpg", 32)


def test_file_too_large_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melfed.common.data.images.decoder.MAX_FILE_BYTES", 100)
    path = tmp_path / "lesion.png"
    picture(60, 60).save(path)
    with pytest.raises(ImageProblem, match="make it smaller"):
        decode(path, 32)


def test_problem_survives_the_way_between_processes() -> None:
    problem = pickle.loads(pickle.dumps(ImageProblem("a.jpg", "empty file")))
    assert (problem.image, problem.reason, str(problem)) == ("a.jpg", "empty file", "a.jpg: empty file")


def test_real_images(shared: Path) -> None:
    for path in sorted((shared / "data" / "ham10000" / "images").iterdir())[:3]:
        with Image.open(path) as image:
            assert largest_difference(decode(path, 128), expected(image.convert("RGB"), 128)) <= 3


DAMAGED_TIFF = """
import io
import numpy as np
from PIL import Image
from melfed.common.data.images.decoder import ImageProblem, decode_bytes

picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"):
    file = io.BytesIO()
    (picture.convert("1") if compression == "group4" else picture).save(file, "TIFF", compression=compression)
    content = bytearray(file.getvalue())
    for place in range(200, len(content) - 200, 97):
        content[place] ^= 0x5A
    try:
        decode_bytes(bytes(content), 32)
    except ImageProblem as problem:
        print(problem)
"""


def test_libraries_write_nothing_about_damaged_pictures_beside_the_error() -> None:
    # In a process of its own: what C writes passes by Python's streams, and pytest shows all warnings.
    done = subprocess.run([sys.executable, "-c", DAMAGED_TIFF], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.count("truncated or damaged") == 2
    assert done.stderr == ""
