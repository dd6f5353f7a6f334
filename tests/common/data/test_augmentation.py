import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.augmentation import Augmentation, Parameters, to_input, turn

NO_COLOUR = Augmentation(brightness=0.0, contrast=0.0, colour=0.0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def symmetries_of(image: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(base, turns) for base in (image, image[:, ::-1]) for turns in range(4)]


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 12), size=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_turned_images_keep_their_pixels(n: int, size: int, seed: int) -> None:
    batch = random_batch(n, size, seed)
    symmetries = np.random.default_rng(seed).integers(0, 8, n)
    turned = turn(batch, symmetries)
    assert turned.shape == batch.shape
    for before, after in zip(batch, turned, strict=True):
        assert sorted(map(tuple, before.reshape(-1, 3))) == sorted(map(tuple, after.reshape(-1, 3)))


def test_the_eight_symmetries_of_the_square() -> None:
    image = random_batch(1, 5)[0]
    turned = turn(np.repeat(image[None], 8, axis=0), np.arange(8))
    assert np.array_equal(turned[0], image)
    assert len({each.tobytes() for each in turned}) == 8
    assert {each.tobytes() for each in turned} == {each.tobytes() for each in symmetries_of(image)}


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31))
def test_each_image_is_turned_on_its_own(seed: int) -> None:
    batch, symmetries = random_batch(10, 6, seed), np.random.default_rng(seed).integers(0, 8, 10)
    alone = [turn(batch[i : i + 1], symmetries[i : i + 1])[0] for i in range(10)]
    assert np.array_equal(turn(batch, symmetries), np.stack(alone))


def test_turning_does_not_touch_the_batch() -> None:
    batch = random_batch(8, 4)
    before = batch.copy()
    turn(batch, np.arange(8))
    to_input(batch, MEAN, STD, seeded(0))
    assert np.array_equal(batch, before)


def test_without_generator_only_normalised() -> None:
    batch = random_batch(3, 7)
    result = to_input(batch, MEAN, STD, None)
    oracle = (batch.astype(np.float64) / 255 - MEAN) / STD
    assert result.shape == (3, 3, 7, 7)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result.permute(0, 2, 3, 1).numpy(), oracle, atol=1e-5)


def test_without_colour_only_turned() -> None:
    batch = random_batch(20, 5)
    parameters = NO_COLOUR.draw(20, seeded(4))
    result = to_input(batch, MEAN, STD, seeded(4), augmentation=NO_COLOUR)
    np.testing.assert_allclose(
        result.numpy(), to_input(turn(batch, parameters.symmetries), MEAN, STD, None).numpy(), atol=1e-6
    )


def test_colour_follows_its_definition() -> None:
    """Checked against brightness, contrast and gain applied one after the other."""
    batch = random_batch(6, 5)
    augmentation = Augmentation()
    uniform = torch.rand(6, 6, generator=seeded(9)).double().numpy()
    brightness, contrast = 0.08 * (2 * uniform[:, 1] - 1), 1 + 0.1 * (2 * uniform[:, 2] - 1)
    gains = 1 + 0.04 * (2 * uniform[:, 3:] - 1)
    turned = turn(batch, augmentation.draw(6, seeded(9)).symmetries).astype(np.float64) / 255
    changed = (turned - 0.5) * contrast[:, None, None, None] + 0.5 + brightness[:, None, None, None]
    changed *= gains[:, None, None, :]
    result = to_input(batch, MEAN, STD, seeded(9)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(result, (changed - MEAN) / STD, atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 70))
def test_parameters_stay_in_range(seed: int, n: int) -> None:
    augmentation = Augmentation(brightness=0.1, contrast=0.2, colour=0.05)
    parameters = augmentation.draw(n, seeded(seed))
    assert isinstance(parameters, Parameters)
    assert parameters.symmetries.min() >= 0
    assert parameters.symmetries.max() <= 7
    assert np.abs(parameters.gains - 1).max() <= 1.05 * 1.2 - 1 + 1e-6
    # Black becomes grey × (1 - contrast) + brightness at most, times the gain.
    assert np.abs(parameters.offsets).max() <= 1.05 * (0.5 * 0.2 + 0.1) + 1e-6


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), n=st.integers(1, 50), more=st.integers(1, 50))
def test_parameters_do_not_depend_on_the_batch_size(seed: int, n: int, more: int) -> None:
    few, many = Augmentation().draw(n, seeded(seed)), Augmentation().draw(n + more, seeded(seed))
    assert np.array_equal(few.symmetries, many.symmetries[:n])
    assert np.array_equal(few.gains, many.gains[:n])
    assert np.array_equal(few.offsets, many.offsets[:n])


def test_same_seed_same_input() -> None:
    batch = random_batch(9, 6)
    first, second, other = (to_input(batch, MEAN, STD, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_generator_moves_on_between_batches() -> None:
    batch, generator = random_batch(9, 6), seeded(1)
    assert not torch.equal(to_input(batch, MEAN, STD, generator), to_input(batch, MEAN, STD, generator))


def test_all_symmetries_are_equally_likely() -> None:
    counts = np.bincount(Augmentation().draw(8000, seeded(0)).symmetries, minlength=8)
    # Six standard deviations of a binomial count: 6 × sqrt(8000 × 1/8 × 7/8) = 177.
    assert np.abs(counts - 1000).max() < 177


def test_read_only_pixels_are_accepted() -> None:
    batch = random_batch(2, 4)
    batch.flags.writeable = False
    assert to_input(batch, MEAN, STD, None).shape == (2, 3, 4, 4)


def test_empty_batch() -> None:
    assert to_input(random_batch(0, 4), MEAN, STD, seeded(0)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 4, 5, 3), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.float32),
    ],
)
def test_other_shapes_and_types_are_refused(batch: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a batch is uint8"):
        to_input(batch, MEAN, STD, None)
