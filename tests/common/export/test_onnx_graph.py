"""The ONNX graph against PyTorch: every family, pictures of any size, calibration, metadata."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from melfed.common.data.augmentation import to_input
from melfed.common.data.images.decoder import decode
from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.data.records import read_table
from melfed.common.export.facts import Calibration
from melfed.common.export.onnx_graph import onnx_model, write_onnx
from melfed.common.export.scorer import OnnxScorer
from melfed.common.metrics.histogram import sigmoid
from melfed.common.model import backbones
from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.model.neck import whitening
from melfed.common.model.weights import find_weights, load_weights
from melfed.common.registry import entries
from tests.common.export.models import SIZE, facts_of, features, logits, network, pictures, statistics
from tests.common.networks import Choices, narrow_vgg, with_random_head

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

LARGEST = 1e-4
QUICK = ("simple_cnn", "squeezenet1_1", "resnet18", "vgg11")
"""Exported within two or three seconds; the others take up to fourteen each."""
SMALLEST = {
    "simple_cnn": 32,
    "densenet121": 32,
    "efficientnet_lite0": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "mnasnet1_0": 32,
    "mobilenet_v2": 32,
    "resnet18": 32,
    "shufflenet_v2_x1_0": 32,
    "squeezenet1_1": 32,
    "vgg11": 32,
}
"""One network of each family of `melfed.common.model.backbones`, the smallest, and a side that it takes."""


def scorer(model: Classifier, size: int = SIZE, **known: object) -> OnnxScorer:
    return OnnxScorer(onnx_model(model, facts_of(model, size, **known)).SerializeToString())


@pytest.fixture(scope="module")
def plain() -> tuple[Classifier, OnnxScorer]:
    """A network without metadata, neck and calibration, and its graph; both are only read."""
    model = network()
    return model, scorer(model)


def differences(model: Classifier, onnx: OnnxScorer, images: np.ndarray) -> Iterator[float]:
    """Yield how far probabilities, and logits by their size, are apart."""
    for image, logit in zip(images, logits(model, images), strict=True):
        probability, found = onnx.score(image)
        yield abs(probability - float(sigmoid(logit)))
        yield abs(found - logit) / max(1.0, abs(logit))


def test_every_family_is_here() -> None:
    families = [family for _, family in entries(backbones.__name__, backbones.__path__, "BACKBONES")]
    assert [len(family.keys() & SMALLEST.keys()) for family in families] == [1] * 11


@pytest.mark.parametrize(
    "backbone", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.exhaustive) for name in SMALLEST]
)
def test_from_the_networks_input_on_it_gives_what_pytorch_gives(backbone: str) -> None:
    size = SMALLEST[backbone]
    with narrow_vgg():
        model = network(backbone)
    # Random weights of deep networks can make logits so alike that nothing is compared.
    images = pictures(8, size, size)
    assert np.ptp(logits(model, images)) > 10 * LARGEST
    assert max(differences(model, scorer(model, size), images)) <= LARGEST


@pytest.fixture(scope="module")
def real(shared: Path) -> np.ndarray:
    """Two hundred real images, uint8 (200, 64, 64, 3)."""
    data = shared / "data" / "ham10000"
    records = read_table(data).records
    chosen = records[:: len(records) // 200][:200]
    images = np.stack([decode(data / record.image, 64) for record in chosen])
    assert len(images) == 200
    return images


def trained(backbone: str, shared: Path, neck: int | None = None) -> Classifier:
    """A network with its real ImageNet weights, and a random head."""
    weights = None if backbone == "efficientnet_lite0" else shared / "weights"
    found = find_weights(backbone, weights_dir=weights, download=False)
    choices = Choices(backbone=backbone, pretrained=True, neck=neck)
    return with_random_head(build_classifier(choices, seed=0, state=load_weights(found, backbone)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "squeezenet1_1", "efficientnet_lite0"])
def test_two_hundred_real_images_give_what_pytorch_gives(backbone: str, shared: Path, real: np.ndarray) -> None:
    model = trained(backbone, shared)
    assert max(differences(model, scorer(model, 64), real)) <= LARGEST


@pytest.mark.exhaustive
def test_a_neck_that_magnifies_what_is_rounded_gives_what_pytorch_gives_on_real_images(
    shared: Path, real: np.ndarray
) -> None:
    """Whitening makes the smallest differences as large as the others; a trained head is about this long."""
    model = trained("efficientnet_lite0", shared, neck=64)
    spec = backbones.backbone_spec(model.backbone)
    with torch.no_grad():
        pooled = model.eval().pooled(to_input(real, spec.mean, spec.std, None)).numpy()
        mean, projection = whitening(pooled, 64)
        model.neck.mean.copy_(torch.from_numpy(mean))
        model.neck.projection.copy_(torch.from_numpy(projection))
        model.head.weight.mul_(20 / model.head.weight.norm())
    assert np.ptp(logits(model, real)) > 1
    assert max(differences(model, scorer(model, 64), real)) <= LARGEST


def test_pictures_of_any_size_are_cut_and_resized_as_pillows_cubic_filter_does(
    plain: tuple[Classifier, OnnxScorer],
) -> None:
    model, onnx = plain
    for height, width in ((SIZE, SIZE), (200, 260), (261, 97), (20, 24), (40, 41)):
        (picture,) = pictures(1, height, width)
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(picture[top : top + side, left : left + side])
        by_pillow = np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        expected = logits(model, by_pillow[None])[0]
        # Pillow rounds between its two passes, ONNX Runtime does not: some pixels differ by one.
        assert onnx.score(picture)[1] == pytest.approx(expected, abs=0.02 * max(1.0, abs(expected)))


def test_a_probability_is_calibrated_where_there_is_a_map_and_says_so_where_not(
    plain: tuple[Classifier, OnnxScorer],
) -> None:
    model, bare = plain
    calibrated = scorer(model, calibration=Calibration(slope=0.5, intercept=-1.5))
    for image in pictures(3):
        probability, logit = bare.score(image)
        assert probability == pytest.approx(float(sigmoid(logit)), abs=1e-6)
        shifted, same = calibrated.score(image)
        assert same == logit
        assert shifted == pytest.approx(float(sigmoid(0.5 * logit - 1.5)), abs=1e-6)
    assert bare.told["calibration"].startswith("none")
    assert '"slope":0.5' in calibrated.told["calibration"].replace(" ", "")


def test_a_map_with_bends_is_in_the_graph_too(plain: tuple[Classifier, OnnxScorer]) -> None:
    model, bare = plain
    logit = bare.score(pictures(1)[0])[1]
    for knots in ((logit - 2.0, logit - 1.0, logit + 1.0), (logit + 1.0,)):
        bent = Calibration(slope=0.5, intercept=-1.5 - logit, knots=knots, bends=(0.5, -0.25, 3.0)[: len(knots)])
        found, same = scorer(model, calibration=bent).score(pictures(1)[0])
        assert same == logit
        assert found == pytest.approx(float(bent.probability(logit)), abs=1e-5)


def test_a_model_that_needs_age_sex_and_site_takes_them() -> None:
    model = network(metadata=True)
    onnx, told = scorer(model), torch.randn(1, METADATA_FEATURES, generator=torch.Generator().manual_seed(4))
    (image,) = pictures(1)
    assert onnx.score(image, told.numpy())[1] == pytest.approx(logits(model, image[None], told)[0], abs=LARGEST)


def test_a_neck_is_exported() -> None:
    model = network(neck=4)
    images = pictures(3)
    onnx = scorer(model)
    assert max(differences(model, onnx, images)) <= LARGEST
    assert onnx.unlike(images[0]) is None, "without statistics it does not say"


@pytest.mark.parametrize("neck", [None, 4])
def test_it_says_how_unlike_a_picture_is_as_the_statistics_do(
    neck: int | None, plain: tuple[Classifier, OnnxScorer]
) -> None:
    model = network(neck=neck)
    seen = statistics(model, pictures(60))
    onnx = scorer(model, seen=seen)
    strange = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
    images = np.concatenate([pictures(4, seed=9), strange])
    expected = seen.scores(features(model, images))
    assert [onnx.unlike(image) for image in images] == pytest.approx(list(expected), rel=1e-3, abs=1e-4)
    assert max(differences(model, onnx, images)) <= LARGEST
    assert plain[1].unlike(images[0]) is None, "without statistics it does not say"


def test_the_file_carries_what_is_told_of_the_model(tmp_path: Path) -> None:
    import onnx

    model = network()
    facts = facts_of(model, run="ab")
    write_onnx(tmp_path / "m.onnx", onnx_model(model, facts))
    loaded = onnx.load_model(tmp_path / "m.onnx")
    assert {each.key: each.value for each in loaded.metadata_props}.items() >= facts.described().items()
    assert [value.name for value in loaded.graph.input] == ["image"]
    assert [value.name for value in loaded.graph.output] == ["probability", "logit"]
    assert OnnxScorer(tmp_path / "m.onnx").facts == facts
