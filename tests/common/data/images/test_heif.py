import io
import sys

import numpy as np
import pytest
from PIL import Image

from melfed.common.data.images.decoder import ImageProblem, MissingDecoder, decode_bytes
from tests.common.data.images.test_colour import stored_in
from tests.common.data.made_pictures import DISPLAY_P3, SIDE, patches, rgb_profile, wrong_by

pillow_heif = pytest.importorskip("pillow_heif")


def heic(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=98, chroma=444, **options)
    return buffer.getvalue()


def test_colours_of_a_phone() -> None:
    profile = rgb_profile(DISPLAY_P3)
    image = stored_in(profile)
    image.info["icc_profile"] = profile
    assert wrong_by(decode_bytes(heic(image), SIDE)) <= 6


def test_without_a_profile() -> None:
    assert wrong_by(decode_bytes(heic(Image.fromarray(patches())), SIDE)) <= 5


def test_a_turned_picture_is_turned_upright_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # which pillow-heif writes as the container's own rotation, as phones do
    stored = Image.fromarray(np.ascontiguousarray(patches()[::-1, ::-1]))
    assert wrong_by(decode_bytes(heic(stored, exif=exif.tobytes()), SIDE)) <= 5


def reason(data: bytes) -> ImageProblem:
    with pytest.raises(ImageProblem) as caught:
        decode_bytes(data, 32)
    return caught.value


def test_damage() -> None:
    data = heic(Image.fromarray(patches()))
    assert "HEIC" in reason(data[: len(data) // 2]).reason
    assert not isinstance(reason(data[: len(data) // 2]), MissingDecoder)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"color_primaries": 9, "transfer_characteristics": 16}, "high dynamic range"),
        ({"color_primaries": 9, "transfer_characteristics": 1}, "colours that are not read"),
    ],
)
def test_colours_that_are_not_read(stated: dict[str, int], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = pillow_heif.open_heif(io.BytesIO(heic(Image.fromarray(patches()))))
    opened.info["nclx_profile"] = stated
    monkeypatch.setattr(pillow_heif, "open_heif", lambda _: opened)
    assert words in reason(heic(Image.fromarray(patches()))).reason


def test_display_p3_stated_without_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(stored_in(rgb_profile(DISPLAY_P3)))
    opened = pillow_heif.open_heif(io.BytesIO(data))
    opened.info["nclx_profile"] = {"color_primaries": 12, "transfer_characteristics": 13}
    monkeypatch.setattr(pillow_heif, "open_heif", lambda _: opened)
    assert wrong_by(decode_bytes(data, SIDE)) <= 6


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melfed.common.data.images.decoder.MAX_PIXELS", SIDE * SIDE - 1)
    assert "megapixels" in reason(heic(Image.fromarray(patches()))).reason


def test_package_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = heic(Image.fromarray(np.asarray(patches())))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    problem = reason(data)
    assert isinstance(problem, MissingDecoder)
    assert "melfed[heic]" in problem.reason
