"""Running a classifier over images: micro-batches that change nothing, and scores in the images' order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore
from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.model.inference import (
    at_least_single,
    autocast,
    logits_of,
    micro_batch_size,
    micro_batches,
    pick_device,
    power_of_two,
    score,
)
from tests.common.image_folder import NAMES, SIZE, make_folder
from tests.common.lesions import record
from tests.common.networks import Choices, with_random_head

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder = tmp_path_factory.mktemp("images")
    store = ImageStore.build(folder / "cache", make_folder(folder / "data"), NAMES, SIZE)
    return Images(tuple(record(name) for name in NAMES), store)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return with_random_head(build_classifier(Choices("simple_cnn"), seed=0, state=None))


@settings(deadline=None, max_examples=25)
@given(st.integers(-5, 10**6))
def test_a_power_of_two_of_at_least_four_that_is_at_most_so_many(most: int) -> None:
    size = power_of_two(most)
    assert size.bit_count() == 1
    assert size == 4 or size <= most < 2 * size


@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 300), side=st.integers(32, 600))
def test_micro_batches_hold_every_image_once_in_order(count: int, side: int) -> None:
    indices = np.arange(count)[::-1]
    parts = micro_batches(indices, side, CPU)
    assert np.array_equal(np.concatenate([indices[:0], *parts]), indices)
    size = micro_batch_size(side, CPU)
    assert all(len(part) == size for part in parts[:-1])


def test_micro_batches_are_larger_on_a_gpu() -> None:
    assert (micro_batch_size(128, CPU), micro_batch_size(224, torch.device("cuda"))) == (16, 256)


def test_the_named_device_is_taken_and_no_precision_is_lost_on_a_cpu() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with autocast(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_half_precision_becomes_single_and_double_stays() -> None:
    assert at_least_single(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_single(torch.ones(1, dtype=torch.float64)).dtype == torch.float64


def test_a_score_is_the_images_own_logit_and_progress_counts_all(
    model: Classifier, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melfed.common.model.inference.CPU_MICRO_BATCH_PIXELS", 4 * SIZE**2)
    told: list[int] = []
    scores = score(model.train(), images, SIZE, CPU, told.append)
    assert (scores.shape, scores.dtype) == ((len(images),), np.float64)
    assert told == [*range(4, len(images), 4), len(images)]
    assert len(set(scores.tolist())) > 1
    for index in (0, len(images) - 1):
        with torch.inference_mode():
            alone = logits_of(model.eval(), images, np.array([index]), None, CPU)
        assert scores[index] == pytest.approx(alone.item(), rel=1e-5)


def test_augmentation_follows_its_generator(model: Classifier, images: Images) -> None:
    def logits(seed: int | None) -> list[float]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return logits_of(model.eval(), images, np.arange(4), generator, CPU).tolist()

    assert logits(1) == logits(1)
    assert len({tuple(logits(seed)) for seed in (None, 1, 2)}) == 3
