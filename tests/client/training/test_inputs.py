"""A network gives the same logits whether it is run on pixels or on the stored outputs of its frozen prefix."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.client.training import inputs as inputs_module
from melfed.client.training.feature_cache import FeatureCache
from melfed.client.training.inputs import CachedInputs, PixelInputs, scores_of, stored_inputs
from melfed.common.data.dataset import Images
from melfed.common.model import inference as scoring
from melfed.common.model.backbones.spec import Trainable
from melfed.common.model.classifier import Classifier, build_classifier, set_trainable
from melfed.common.model.frozen_prefix import split
from melfed.common.model.inference import logits_of, score
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU
from tests.common.networks import Choices
from tests.common.runs import public_model

SIZE = 32


@pytest.fixture(scope="module")
def images(phantom_clinics: VirtualClinics) -> Images:
    return phantom_clinics.clinics[0].load("train")


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def ready(model: Classifier, part: Trainable) -> Classifier:
    set_trainable(model, part)
    model.dropout.p = 0.0
    with torch.no_grad():
        model.head.weight.mul_(100)  # logits of untrained networks hardly differ from image to image
    return model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


def squeezenet() -> Classifier:
    model = build_classifier(Choices("squeezenet1_1", metadata=True), seed=1, state=None)
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(2))
    return model


def pixel_inputs(model: Classifier, images: Images) -> PixelInputs:
    return PixelInputs(model, images, SIZE, None, CPU)


def cached_inputs(model: Classifier, images: Images, cache: FeatureCache, views: int = 1) -> CachedInputs:
    parts, features = split(model), cache.features(model, images, SIZE, CPU, views=views)
    assert parts is not None
    assert features is not None
    return CachedInputs(parts, features, images, model.metadata is not None, CPU)


NETWORKS: dict[str, Callable[[], Classifier]] = {
    "plain": public_model,
    "metadata": lambda: public_model(metadata=True),
    "neck": lambda: public_model(neck=5),
    "neck and metadata": lambda: public_model(neck=5, metadata=True),
    "squeezenet": squeezenet,
}


@pytest.mark.parametrize(
    ("network", "part"), [*((name, "head") for name in NETWORKS), ("plain", "last_block"), ("squeezenet", "last_block")]
)
def test_stored_outputs_and_pixels_give_the_same_logits(
    images: Images, cache: FeatureCache, network: str, part: Trainable
) -> None:
    model = ready(NETWORKS[network](), part)
    pixels, cached = pixel_inputs(model, images), cached_inputs(model, images, cache)
    chosen = np.array([3, 0, 3, len(images) - 1])
    with torch.no_grad():
        one, two = pixels.logits(chosen), cached.logits(chosen)
    assert one.dtype == two.dtype == torch.float32
    assert one.shape == (4,)
    assert one[0] == one[2] != one[1]
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("network", "part"), [("neck and metadata", "head"), ("squeezenet", "last_block")])
def test_both_give_the_same_gradients_to_the_same_parameters(
    images: Images, cache: FeatureCache, network: str, part: Trainable
) -> None:
    model = ready(NETWORKS[network](), part)
    chosen = np.arange(6)
    gradients = []
    for inputs in (pixel_inputs(model, images), cached_inputs(model, images, cache)):
        model.zero_grad()
        (inputs.logits(chosen) * torch.arange(1, 7)).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_a_head_that_has_learnt_is_seen_by_both(images: Images, cache: FeatureCache) -> None:
    model = ready(public_model(metadata=True), "head")
    cached, chosen = cached_inputs(model, images, cache), np.arange(5)
    before = cached.logits(chosen).detach()
    with torch.no_grad():
        model.head.weight.mul_(-2)
    after = cached.logits(chosen).detach()
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, pixel_inputs(model, images).logits(chosen).detach(), rtol=1e-4, atol=1e-5)


def test_views_are_chosen_a_row_and_view_0_is_the_plain_image(images: Images, cache: FeatureCache) -> None:
    model = ready(public_model(), "head")
    cached = cached_inputs(model, images, cache, views=3)
    assert cached.views == 3
    chosen = np.array([2, 2, 2, 5])
    with torch.no_grad():
        plain = pixel_inputs(model, images).logits(chosen)
        mixed = cached.logits(chosen, np.array([0, 1, 2, 0]))
        ones = cached.logits(chosen, np.array([1, 1, 1, 1]))
        torch.testing.assert_close(cached.logits(chosen), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[[0, 3]], plain[[0, 3]], rtol=1e-4, atol=1e-5)
    assert len({round(float(value), 6) for value in mixed[:3]}) == 3
    assert mixed[1] == ones[0] == ones[1]


def test_pixels_are_augmented_at_random_where_a_generator_is_given(images: Images) -> None:
    model, chosen = ready(public_model(), "head"), np.array([1, 1, 1, 1])

    def logits(seed: int | None) -> torch.Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return PixelInputs(model, images, SIZE, generator, CPU).logits(chosen, np.zeros(4, np.int64))

    assert len(logits(None).unique()) == 1
    assert len(logits(0).unique()) > 1
    assert torch.equal(logits(0), logits(0))
    with torch.no_grad():
        oracle = logits_of(model, images, chosen, torch.Generator().manual_seed(7), CPU)
    assert torch.equal(logits(7), oracle)


@pytest.mark.parametrize("metadata", [False, True])
def test_scores_are_those_of_scoring_whatever_the_micro_batches(
    images: Images, cache: FeatureCache, metadata: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ready(public_model(metadata=metadata), "head").train()
    model.dropout.p = 0.4
    expected = score(model, images, SIZE, CPU)
    assert np.ptp(expected) > 1e-3
    monkeypatch.setattr(scoring, "CPU_MICRO_BATCH_PIXELS", 5 * SIZE**2)
    monkeypatch.setattr(inputs_module, "CACHED_MICRO_BATCH_ELEMENTS", 7 * 11)
    pixels, cached = pixel_inputs(model, images), cached_inputs(model, images, cache)
    assert (pixels.micro_batch, cached.micro_batch) == (4, 4)
    for inputs in (pixels, cached):
        model.train()
        found = scores_of(model, inputs, len(images))
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert scores_of(model, pixels, 0).shape == (0,)
    assert len(scores_of(model, cached, 3)) == 3


def test_micro_batches_hold_some_rows_even_of_large_activations(images: Images) -> None:
    model = ready(public_model(), "last_block")
    parts = split(model)
    assert parts is not None
    for elements, expected in ((1 << 30, 4), (1 << 20, 4), (1 << 12, 1 << 10), (3, 1 << 11)):
        features = np.broadcast_to(np.float32(0), (len(images), 2, elements))
        inputs = CachedInputs(parts, features, images, False, CPU)
        assert (inputs.micro_batch, inputs.views) == (expected, 2)


def test_dropout_before_the_head_is_drawn_on_stored_features_too(images: Images, cache: FeatureCache) -> None:
    model = ready(public_model(), "head").train()
    inputs, chosen = cached_inputs(model, images, cache), np.arange(8)
    with torch.no_grad():
        plain = inputs.logits(chosen)
        assert torch.equal(plain, inputs.logits(chosen))
        model.dropout.p = 0.5
        assert not torch.equal(inputs.logits(chosen), inputs.logits(chosen))
        model.eval()
        assert torch.equal(plain, inputs.logits(chosen))


def test_stored_inputs_are_there_where_a_prefix_is_frozen_and_fits(
    images: Images, tmp_path: Path, cache: FeatureCache
) -> None:
    model = ready(public_model(metadata=True), "head")
    study = StudyProtocol().with_sections({"data": {"image_size": SIZE}, "model": {"metadata": True}})
    stored = stored_inputs(cache, model, images, study, CPU, views=2)
    assert isinstance(stored, CachedInputs)
    assert stored.views == 2
    pixels = pixel_inputs(model, images)
    assert np.allclose(scores_of(model, stored, len(images)), scores_of(model, pixels, len(images)), atol=1e-5)
    assert stored_inputs(FeatureCache(tmp_path / "small", limit=100), model, images, study, CPU) is None
    assert stored_inputs(cache, ready(public_model(metadata=True), "full"), images, study, CPU) is None
