import pytest

from melfed.common.data.images.codestream import jpeg2000_stream, jpeg_frame, with_adobe
from tests.common.data.made_pictures import APP0, SIDE, adobe, jpeg


@pytest.mark.parametrize(
    ("data", "coded_rgb"),
    [
        (jpeg("YCC", APP0), False),
        (jpeg("YCC", APP0 + adobe(0)), False),  # as libjpeg takes it, and so every viewer
        (jpeg("YCC", adobe(1)), False),
        (jpeg("YCC"), False),  # by the tables of its chroma
        (jpeg("YCC", subsampling=2), False),
        (jpeg("RGB", adobe(0)), True),
        (jpeg("RGB", numbered=False), True),
        (jpeg("RGB"), None),
        (with_adobe(jpeg("RGB"), rgb=True), True),
        (with_adobe(jpeg("RGB"), rgb=False), False),
    ],
)
def test_how_a_jpeg_says_its_colours_are_coded(data: bytes, coded_rgb: bool | None) -> None:
    frame = jpeg_frame(data)
    assert frame.coded_rgb is coded_rgb
    assert (frame.width, frame.height, frame.bits, frame.components) == (SIDE, SIDE, 8, 3)


def test_fill_bytes_are_passed_over() -> None:
    data = jpeg("YCC", APP0)
    assert jpeg_frame(data[:2] + b"\xff\xff" + data[2:]) == jpeg_frame(data)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 20, 100, 170])
def test_headers_that_are_cut_off(length: int) -> None:
    with pytest.raises(ValueError, match=r"JPEG|segment|header|style"):
        jpeg_frame(jpeg("YCC", APP0)[:length])
    with pytest.raises(ValueError, match=r"JPEG|segment|header|style"):
        jpeg2000_stream((b"\xff\x4f\xff\x51\x00\x2f" + bytes(200))[:length])
