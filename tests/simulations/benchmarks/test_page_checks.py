"""The benchmark of the page's checks runs them in a browser, on pictures as they are and blurred."""

from pathlib import Path

import numpy as np
from PIL import Image

from melfed.simulations.benchmarks.page_checks import AT_ONCE, blurred, checked, counted, measure
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom
from tests.browser import started


def test_pictures_pass_as_they_are_and_not_blurred(tmp_path: Path) -> None:
    with started():
        pass  # skips where there is no browser
    data = write_phantom(tmp_path / "data", PhantomSpec(2, AT_ONCE + 12, size=128))
    found = measure(data, most=AT_ONCE + 12, blur=3.0)
    assert found["as_they_are"]["pictures"] == found["blurred"]["pictures"] == AT_ONCE + 12
    assert found["as_they_are"]["pass"] > 0.7 * AT_ONCE
    assert found["blurred"]["focus_pass"] < 0.2 * found["as_they_are"]["focus_pass"]
    assert found["blurred"]["focus_median"] < 0.2 * found["as_they_are"]["focus_median"]


def test_what_the_page_cannot_read_is_none(tmp_path: Path) -> None:
    with started():
        pass  # skips where there is no browser
    (tmp_path / "text.jpg").write_text("no picture")
    Image.fromarray(np.full((40, 40, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    nothing, grey = checked([tmp_path / "text.jpg", tmp_path / "grey.png"])
    assert nothing is None
    assert grey is not None
    assert [name for name, check in grey.items() if check["good"]] == ["exposure"]


def test_passes_are_counted() -> None:
    good, bad = ({"a": {"value": value, "good": value > 1}, "b": {"value": 5, "good": True}} for value in (2, 1))
    found = counted([good, bad, None])
    assert found == {
        "pictures": 3,
        "unreadable": 1,
        "pass": 1,
        "a_pass": 1,
        "a_median": 1.5,
        "b_pass": 2,
        "b_median": 5,
    }


def test_blur_is_in_pixels_of_the_square_that_is_checked(tmp_path: Path) -> None:
    edge = np.zeros((256, 512, 3), np.uint8)
    edge[:, 256:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(edge).save(tmp_path / "a.png", exif=exif)
    with Image.open(blurred(tmp_path / "a.png", tmp_path / "b.png", 2.0)) as image:
        assert image.size == (256, 512)  # turned as its EXIF says
        line = np.asarray(image)[:, 128, 0] / 255
    # A normal distribution's 84 % lies one deviation of 2 × 256 / 128 = 4 pixels behind the edge.
    assert abs(np.argmax(line > 0.8413) - 256 - 4) <= 1
