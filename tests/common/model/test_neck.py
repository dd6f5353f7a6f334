"""The neck: where backbones are tapped, what whitening gives, and that nothing of it learns or travels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.errors import StudyError, WeightsError
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.backbones.spec import Trainable
from melfed.common.model.classifier import (
    NECK_METADATA_SCALE,
    Classifier,
    build_classifier,
    build_trunk,
    saved_classifier,
    set_trainable,
    trainable_tensors,
)
from melfed.common.model.neck import Neck, pool, tap_modules, whitening
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.fit_neck import with_neck
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU
from tests.common.networks import Choices, images, with_random_head

PROBE, MOST = 128, 32


def with_statistics(model: Classifier) -> Classifier:
    """Fill a neck with statistics that let every input through to every output."""
    assert model.neck is not None
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.neck.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def necked(backbone: str = "simple_cnn", dimensions: int = 5, **choices: object) -> Classifier:
    model = build_classifier(Choices(backbone, neck=dimensions, **choices), seed=1, state=None)
    return with_statistics(with_random_head(model)).eval()


# Where a backbone is tapped.


def outputs(trunk: nn.Module, batch: Tensor) -> list[tuple[str, Tensor]]:
    """Name and output of every module, in the order in which they finish."""
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.append((name, output.clone())))
        for name, module in trunk.named_modules()
        if name
    ]
    with torch.no_grad():
        trunk(batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_tapped_at_the_last_module_of_each_resolution(backbone: str) -> None:
    with torch.device("meta"):
        trunk = build_trunk(backbone, pretrained=True).eval()
        seen = outputs(trunk, torch.zeros(1, 3, PROBE, PROBE))
    taps, inputs = tap_modules(trunk)
    order = [name for name, _ in seen]
    maps = {i: output.shape for i, (_, output) in enumerate(seen) if output.dim() == 4}
    places = [order.index(name) for name in taps]
    assert places == sorted(places)
    assert all(order.count(name) == 1 for name in taps), "a module that runs twice has no one output"
    assert inputs == 2 * sum(maps[place][1] for place in places)
    sides = [maps[place][2] for place in places]
    assert sides == sorted(set(sides), reverse=True)
    assert 1 < sides[-1] <= sides[0] <= MOST
    for place, (_, _, side, _) in maps.items():
        smallest = min([side, *(maps[other][2] for other in maps if other < place and maps[other][2] > 1)])
        if 1 < side == smallest <= MOST and order.count(order[place]) == 1:
            assert place <= places[sides.index(side)], f"{order[place]} is later, and of the same resolution"


@pytest.mark.parametrize(
    ("backbone", "taps"),
    [
        ("resnet18", ("layer1", "layer2", "layer3", "layer4")),
        ("resnet50", ("layer2.0.bn1", "layer3.0.bn1", "layer4.0.bn1", "layer4")),
        ("googlenet", ("conv3", "inception3b", "inception4e", "inception5b")),
        ("squeezenet1_1", ("features.4", "features.7", "features")),
        ("simple_cnn", ("features.5", "features.8", "features.11", "features")),
    ],
)
def test_these_taps_are_part_of_what_a_saved_model_means(backbone: str, taps: tuple[str, ...]) -> None:
    """A neck's statistics are of these outputs in this order: saved necks of other taps compute something else."""
    with torch.device("meta"):
        assert tap_modules(build_trunk(backbone, pretrained=True))[0] == taps


@pytest.mark.parametrize("size", [32, 64, 100])
@pytest.mark.parametrize("backbone", ["simple_cnn", "squeezenet1_1", "resnet50"])
def test_what_the_neck_sees_are_means_and_deviations_at_its_taps(backbone: str, size: int) -> None:
    model = necked(backbone)
    assert model.neck is not None
    tapped = dict(outputs(model.trunk, images(size=size)))
    expected = []
    for name in model.neck.taps:
        values = tapped[name].double().flatten(2)
        expected += [values.mean(2), (values.var(2, correction=0) + 1e-8).sqrt()]
    with torch.no_grad():
        pooled = model.pooled(images(size=size))
    torch.testing.assert_close(pooled.double(), torch.cat(expected, 1), rtol=1e-4, atol=1e-5)
    assert pooled.shape[1] == len(model.neck.mean)


def test_nothing_of_a_run_is_left_in_the_trunk() -> None:
    model = necked()
    with torch.no_grad():
        model(images())
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 5, 64, 64))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_run_through_another_trunk_leaves_the_first_alone() -> None:
    trunk = build_trunk("simple_cnn", pretrained=False)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    trunk.train()
    tap_modules(trunk)
    assert trunk.training
    assert not any(module._forward_hooks for module in trunk.modules())
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


def test_a_flat_map_has_a_gradient() -> None:
    """Its deviation is 0, where a square root has none."""
    maps = torch.ones(1, 2, 3, 3, requires_grad=True)
    pool(maps).sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()


# Whitening.


def correlated(rows: int, columns: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(rows, columns)) @ random.normal(size=(columns, columns)) + random.normal(size=columns)
    return (mixed * np.geomspace(1e-3, 1e3, columns)).astype(np.float32)


@given(st.integers(2, 12), st.integers(0, 2**32 - 1), st.data())
@settings(deadline=None, max_examples=30)
def test_whitened_features_are_centred_uncorrelated_and_of_norm_one(columns: int, seed: int, data) -> None:
    pooled = correlated(300, columns, seed)
    dimensions = data.draw(st.integers(1, columns))
    mean, projection = whitening(pooled, dimensions)
    assert mean.shape == (columns,)
    assert projection.shape == (columns, dimensions)
    white = (pooled.astype(np.float64) - mean) @ projection
    variances = np.linalg.eigvalsh(np.corrcoef(pooled, rowvar=False))[::-1][:dimensions]
    if variances.min() > 1e-4:  # what varies less than a millionth of the most is left smaller: it is hardly a feature
        assert np.abs(white.mean(0)).max() < 1e-3
        np.testing.assert_allclose(white.T @ white / len(white), np.eye(dimensions) / dimensions, atol=1e-2)
        assert (white**2).sum(1).mean() == pytest.approx(1, abs=1e-2)


def test_shrinkage_leaves_leading_components_longer_at_the_same_norm() -> None:
    pooled = correlated(300, 8, 5)
    standard = np.corrcoef(pooled, rowvar=False)
    kept = np.linalg.eigvalsh(standard)[::-1][:5]
    mean, projection = whitening(pooled, 5, shrinkage=2.0)
    white = (pooled.astype(np.float64) - mean) @ projection
    left = kept / (kept + 2.0 * kept.mean())
    np.testing.assert_allclose(white.T @ white / len(white), np.diag(left / left.sum()), atol=1e-3)
    assert left[0] > 1.5 * left[-1]


def test_the_leading_components_are_kept() -> None:
    random = np.random.default_rng(0)
    common = random.normal(size=(500, 1))
    pooled = np.concatenate([common + 0.1 * random.normal(size=(500, 3)), random.normal(size=(500, 2))], axis=1)
    mean, projection = whitening(pooled.astype(np.float32), 1)
    white = ((pooled - mean) @ projection)[:, 0]
    assert abs(np.corrcoef(white, common[:, 0])[0, 1]) > 0.99


def test_units_of_a_feature_do_not_matter() -> None:
    pooled = correlated(200, 6, 1)
    changed = pooled * np.array([1, 1e3, 1e-3, 1, 7, 1], np.float32) + 3
    white = [
        (values - mean) @ projection for values in (pooled, changed) for mean, projection in [whitening(values, 3)]
    ]
    np.testing.assert_allclose(np.abs(white[0]), np.abs(white[1]), atol=2e-3)


def test_a_feature_that_never_changes_is_left_out() -> None:
    pooled = correlated(100, 4, 2)
    pooled[:, 1] = 5
    _, projection = whitening(pooled, 3)
    assert np.isfinite(projection).all()
    assert not projection[1].any()


# The neck in a classifier.


def test_the_head_sees_the_whitened_features() -> None:
    model = necked(metadata=True)
    assert model.neck is not None
    batch = images(3)
    metadata = torch.randn(3, METADATA_FEATURES, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        white = (model.pooled(batch) - model.neck.mean) @ model.neck.projection
        assert torch.equal(model.features(batch), white)
        # A record is joined as it is, only shorter: no perceptron learns behind a neck.
        seen = torch.cat([white, metadata * NECK_METADATA_SCALE], dim=1)
        expected = seen @ model.head.weight[0] + model.head.bias
        torch.testing.assert_close(model(batch, metadata), expected, rtol=1e-4, atol=1e-5)


def test_without_a_neck_there_is_nothing_to_pool() -> None:
    model = build_classifier(Choices(), seed=0, state=None)
    with pytest.raises(ValueError, match="no neck"):
        model.pooled(images())


def test_more_dimensions_than_features_are_refused() -> None:
    assert necked(dimensions=88).neck is not None
    with pytest.raises(StudyError, match=r"^model\.neck is 89, but the backbone gives 88 features; choose no more$"):
        necked(dimensions=89)


@pytest.mark.parametrize("part", ["head", "affine", "last_block", "full"])
def test_the_neck_never_learns_nor_travels(part: Trainable) -> None:
    model = necked(train="full")
    set_trainable(model, part)
    assert model.neck is not None
    assert not any(parameter.requires_grad for parameter in model.neck.parameters())
    assert "head.weight" in trainable_tensors(model)
    assert not any(name.startswith("neck") for name in trainable_tensors(model))
    model(images()).sum().backward()
    assert all(parameter.grad is None for parameter in model.neck.parameters())


@pytest.mark.parametrize("backbone", ["simple_cnn", "resnet50", "efficientnet_lite0"])
def test_a_saved_network_with_a_neck_computes_the_same(backbone: str) -> None:
    choices = Choices(backbone, neck=7, metadata=True)
    model = with_statistics(with_random_head(build_classifier(choices, seed=1, state=None))).eval()
    saved = saved_classifier(choices, model.state_dict()).eval()
    metadata = torch.zeros(2, METADATA_FEATURES)
    with torch.no_grad():
        assert torch.equal(saved(images(), metadata), model(images(), metadata))
    assert saved.neck is not None
    assert not any(parameter.requires_grad for parameter in saved.neck.parameters())


@pytest.mark.parametrize("other", [None, 6])
def test_a_saved_network_of_another_neck_is_refused(other: int | None) -> None:
    with pytest.raises(WeightsError, match="the saved tensors are of another network"):
        saved_classifier(Choices(neck=other), necked().state_dict())


# A neck from public images.


def test_a_trained_model_gets_a_neck_of_its_images(phantom_clinics: VirtualClinics) -> None:
    study = StudyProtocol.model_validate(
        {
            "data": {"image_size": 32},
            "model": {"backbone": "simple_cnn", "train": "head", "neck": 6, "metadata": True},
            "federation": {"mode": "central"},
            "training": {"positive_weight": 2.0},
        }
    )
    public = phantom_clinics.clinics[0].load("train")
    plain = with_random_head(build_classifier(Choices(metadata=True), seed=2, state=None))
    model = with_neck(plain, public, study, CPU).eval()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    for name, value in plain.trunk.state_dict().items():
        assert torch.equal(model.trunk.state_dict()[name], value), name
    inputs = [torch.from_numpy(public.pixels([i])).permute(0, 3, 1, 2) / 255 for i in range(len(public))]
    backbone = BACKBONES["simple_cnn"]
    mean, std = (torch.tensor(colour).view(1, 3, 1, 1) for colour in (backbone.mean, backbone.std))
    with torch.no_grad():
        batch = (torch.cat(inputs) - mean) / std
        features = model.features(batch)
        logits = model(batch, torch.from_numpy(public.metadata))
    assert features.mean(0).abs().max() < 1e-3
    assert float((features**2).sum(1).mean()) == pytest.approx(1, abs=0.02)
    # The head was fitted: it tells the images that it has seen apart.
    targets = torch.from_numpy(public.targets).bool()
    ranks = logits[targets][:, None] > logits[~targets][None, :]
    assert float(ranks.float().mean()) > 0.7


def test_the_neck_keeps_its_statistics_in_a_file() -> None:
    names = {name for name in necked().state_dict() if name.startswith("neck")}
    assert names == {"neck.mean", "neck.projection"}
    assert isinstance(necked().neck, Neck)
