"""Pictures of synthetic lesions: a function of lesion, camera and generator, in which each trait can be seen."""

from dataclasses import replace

import numpy as np
import pytest

from melfed.simulations.phantom.rendering import Camera, LesionTraits, render_lesion

CLEAR = Camera("clear", (1, 1, 1), 1, 1, 0.0, 0.0, 1, 0, 2, 0, 0)
LESION = LesionTraits(
    structure=3, melanin=0.1, hairiness=0, radius=0.4, elongation=0.1, asymmetry=0.1, raggedness=0.1, edge=0.1,
    pigment=0.8, dark_brown=0.3, black=0, red=0, blue_grey=0, white=0, network=0, network_irregularity=0,
    globules=0, globule_irregularity=0,
)  # fmt: skip


def picture(size: int = 64, seed: int = 0, camera: Camera = CLEAR, **traits: float) -> np.ndarray:
    return render_lesion(replace(LESION, **traits), camera, size, np.random.default_rng(seed)).astype(float)


def corners(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([pixels[:6, :6], pixels[-6:, -6:]]).reshape(-1, 3)


def middle(pixels: np.ndarray) -> np.ndarray:
    return pixels[26:38, 26:38].reshape(-1, 3)


@pytest.mark.parametrize("size", [16, 33, 96])
def test_pixels_have_their_size_and_are_the_same_each_time(size: int) -> None:
    made = render_lesion(LESION, CLEAR, size, np.random.default_rng(1))
    assert (made.shape, made.dtype) == ((size, size, 3), np.uint8)
    np.testing.assert_array_equal(made, render_lesion(LESION, CLEAR, size, np.random.default_rng(1)))


def test_another_photograph_and_another_lesion_are_other_pictures() -> None:
    assert (picture() != picture(seed=1)).any()
    assert (picture() != picture(structure=4)).any()


def test_the_lesion_is_darker_than_skin_and_skin_with_more_melanin_darker_still() -> None:
    assert middle(picture()).mean() < corners(picture()).mean() - 30
    assert corners(picture(melanin=0.9)).mean() < corners(picture()).mean() - 30


def test_a_larger_lesion_covers_more() -> None:
    def dark(radius: float) -> float:
        pixels = picture(radius=radius)
        return float((pixels.mean(axis=2) < corners(pixels).mean() - 25).mean())

    assert dark(0.2) < dark(0.4) < dark(0.6)


def test_colours_of_a_melanoma_are_seen() -> None:
    plain = middle(picture())
    assert middle(picture(black=0.6)).mean() < plain.mean() - 8
    red, blue = middle(picture(red=0.6)), middle(picture(blue_grey=0.6))
    assert (red[:, 0] - red[:, 1]).mean() > (plain[:, 0] - plain[:, 1]).mean()
    assert (blue[:, 2] - blue[:, 0]).mean() > (plain[:, 2] - plain[:, 0]).mean() + 10


def test_a_camera_changes_light_colour_and_sharpness() -> None:
    clear = picture()
    assert picture(camera=replace(CLEAR, exposure=0.7)).mean() < clear.mean() - 20
    cast = picture(camera=replace(CLEAR, cast=(0.8, 1, 1)))
    assert cast[..., 0].mean() < clear[..., 0].mean() - 10
    np.testing.assert_allclose(cast[..., 2], clear[..., 2], atol=1)
    rough = [
        np.abs(np.diff(picture(camera=replace(CLEAR, **change)), axis=0)).mean()
        for change in ({"blur": 40}, {}, {"grain": 20})
    ]
    assert rough == sorted(rough)
    assert rough[0] < rough[2] / 2
    dark_rim = picture(camera=replace(CLEAR, field=0.9))
    assert corners(dark_rim).mean() < 30 < corners(clear).mean()


def test_hair_and_a_ruler_lie_over_the_skin() -> None:
    def covered(**changes: float) -> float:
        camera = replace(CLEAR, ruler_rate=changes.pop("ruler_rate", 0))
        pixels = picture(128, 5, camera, radius=0.1, **changes)
        return float((pixels.max(axis=2) < corners(pixels).max(axis=1).mean() * 0.7).mean())

    assert covered() + 0.001 < covered(hairiness=1.0)
    assert covered() + 0.001 < covered(ruler_rate=1)
