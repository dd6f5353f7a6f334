import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from melfed.common.data.images.colour import display_p3_to_srgb, to_srgb
from melfed.common.data.images.problems import PictureError
from tests.common.data.made_pictures import DISPLAY_P3, SRGB, grey_profile, ink_profile, patches, rgb_profile, wrong_by


def one(colour: tuple[int, ...], mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (4, 4), colour)


def stored_in(profile: bytes) -> Image.Image:
    """The patches as a device stores them that works in other colours."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = ImageCms.profileToProfile(Image.fromarray(patches()), ImageCms.createProfile("sRGB"), opened)
    assert image is not None
    return image


def test_red_of_a_phone() -> None:
    """(214, 99, 86) in Display P3 is the red that sRGB writes (230, 90, 80)."""
    converted = np.asarray(to_srgb(one((214, 99, 86)), rgb_profile(DISPLAY_P3)), int)
    assert np.abs(converted - (230, 90, 80)).max() <= 1


@pytest.mark.parametrize(("primaries", "exponent"), [(DISPLAY_P3, None), (DISPLAY_P3, 2.2), (SRGB, 1.8), (SRGB, 1.0)])
def test_colours_of_other_devices(primaries: np.ndarray, exponent: float | None) -> None:
    profile = rgb_profile(primaries, exponent)
    # A linear scale of 8 bits is coarse in the shadows.
    assert wrong_by(np.asarray(to_srgb(stored_in(profile), profile))) <= (3 if exponent != 1.0 else 6)


def test_srgb_profiles_change_no_pixel() -> None:
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (made, rgb_profile(SRGB)):
        image = Image.fromarray(patches())
        assert to_srgb(image, profile) is image


def test_display_p3_without_its_profile_is_converted_alike() -> None:
    image = stored_in(rgb_profile(DISPLAY_P3))
    with_profile = np.asarray(to_srgb(image, rgb_profile(DISPLAY_P3)), int)
    assert np.abs(np.asarray(display_p3_to_srgb(image), int) - with_profile).max() <= 2


@pytest.mark.parametrize("profile", [b"", b"no one", rgb_profile(DISPLAY_P3)[:200], grey_profile(1.0), ink_profile({})])
def test_unusable_profiles_leave_the_colours(profile: bytes) -> None:
    assert np.array_equal(np.asarray(to_srgb(Image.fromarray(patches()), profile)), patches())


@given(cut=st.integers(0, 700), value=st.integers(0, 255))
def test_damaged_profiles_never_spoil_a_picture(cut: int, value: int) -> None:
    profile = bytearray(rgb_profile(DISPLAY_P3))
    profile[cut % len(profile)] = value
    assert to_srgb(one((1, 2, 3)), bytes(profile)).size == (4, 4)


def test_grey_by_its_profile() -> None:
    linear = np.asarray(to_srgb(one((55,), "L"), grey_profile(1.0)), int)
    assert np.abs(linear - 128).max() <= 2  # a fifth of the light looks half as bright
    assert np.asarray(to_srgb(one((55,), "L"), None)).max() == 55


INKS = {(1, 0, 0, 0): (60.0, 10.0, -40.0), (0, 1, 1, 0): (45.0, 60.0, 40.0), (0, 0, 0, 1): (0.0, 0.0, 0.0)}


def srgb_of_lab(lightness: float, a: float, b: float) -> np.ndarray:
    """CIELAB (D50) to sRGB by the formulas of CIE 15 and IEC 61966-2-1, with the profile's matrix."""
    root = (lightness + 16) / 116 + np.array([a / 500, 0, -b / 200])
    xyz = np.where(root > 6 / 29, root**3, (root - 4 / 29) * 3 * (6 / 29) ** 2) * (0.9642, 1.0, 0.8249)
    linear = np.clip(np.linalg.solve(SRGB, xyz), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("inks", sorted(INKS))
def test_inks_by_their_profile(inks: tuple[int, int, int, int]) -> None:
    converted = to_srgb(one(tuple(255 * ink for ink in inks), "CMYK"), ink_profile(INKS))
    assert np.abs(np.asarray(converted, int) - srgb_of_lab(*INKS[inks])).max() <= 3


@pytest.mark.parametrize("profile", [None, b"no profile", rgb_profile(DISPLAY_P3)])
def test_inks_without_their_profile_are_refused(profile: bytes | None) -> None:
    with pytest.raises(PictureError, match="CMYK without a usable colour profile: convert to 8-bit RGB"):
        to_srgb(one((9, 9, 9, 9), "CMYK"), profile)
