"""What is unlike all that a model has seen: an oracle, the promised rate of false alarms, pictures of other things."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy.spatial.distance import mahalanobis

from melfed.common.data.images.decoder import ImageProblem, decode
from melfed.common.data.records import read_table
from melfed.common.errors import DataError, RunError, WeightsError
from melfed.common.export.out_of_distribution import FeatureStatistics, of_moments, of_public
from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.model.weights import find_weights, load_weights
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.simulations.phantom.dataset import Camera, cameras, render_lesion, sample_traits
from tests.common.export.models import features, statistics
from tests.common.moments.test_solvers import moments_of
from tests.common.networks import Choices

SIDE = 64


def third(n: int) -> list[bool]:
    return [number % 3 == 2 for number in range(n)]


def correlated(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.random.default_rng(99).normal(size=(d, d)) + 3


def test_of_few_features_the_distance_is_mahalanobis() -> None:
    values = correlated(300, 5, 0)
    seen = of_public(values, third(300))
    known = values[[not out for out in third(300)]]
    inverse = np.linalg.inv(np.cov(known.T, bias=True))
    new = correlated(20, 5, 1)
    expected = [mahalanobis(row, known.mean(0), inverse) / math.sqrt(5) / seen.threshold for row in new]
    assert seen.scores(new) == pytest.approx(expected, rel=1e-4)


def test_of_many_features_the_distance_is_that_of_the_low_rank_covariance() -> None:
    values = correlated(200, 90, 0)
    seen = of_public(values, third(200))
    mean, scale, variances, rest, directions = (each.astype(float) for each in seen.arrays())
    covariance = rest * np.eye(90) + directions.T @ np.diag(variances - rest) @ directions
    new = (correlated(5, 90, 1) - mean) / scale
    expected = np.sqrt(np.einsum("nd,de,ne->n", new, np.linalg.inv(covariance), new) / 90) / seen.threshold
    assert seen.scores(new * scale + mean) == pytest.approx(expected, rel=1e-3)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), rate=st.sampled_from([0.05, 0.2, 0.5]), tail=st.booleans())
def test_false_alarms_are_as_promised_whatever_the_features_are_distributed_like(
    seed: int, rate: float, tail: bool
) -> None:
    rng = np.random.default_rng(seed)
    draw: Callable[[tuple[int, int]], np.ndarray] = (lambda size: rng.standard_t(2, size)) if tail else rng.normal
    values = draw(size=(1500, 6))
    share = (of_public(values, third(1500), rate).scores(draw(size=(4000, 6))) > 1).mean()
    # Of 500 held out and 4000 new ones; five standard deviations.
    assert abs(share - rate) < 5 * math.sqrt(rate * (1 - rate) * (1 / 500 + 1 / 4000)) + 1 / 500


def test_a_feature_that_never_moved_decides_nothing_by_itself_and_gives_numbers() -> None:
    values = correlated(90, 6, 0)
    values[:, 2] = 7.0
    scores = of_public(values, third(90)).scores(values + 1e-3)
    assert np.isfinite(scores).all()
    assert np.median(scores) < 1


@pytest.mark.parametrize("images", [1, 20, 56])
def test_too_few_images_are_told_of(images: int) -> None:
    with pytest.raises(DataError, match="it takes 2 and 19; give more public images"):
        of_public(correlated(images, 4, 0), third(images))


def test_features_of_another_network_are_refused() -> None:
    with pytest.raises(RunError, match="of 4 features, and the model has 5"):
        of_public(correlated(90, 4, 0), third(90)).scores(np.zeros((1, 5)))


@pytest.mark.parametrize(
    "change",
    [{"packed": "AAAA"}, {"packed": "é"}, {"features": 5}, {"threshold": 0}, {"false_alarms": 1}, {"origin": "secret"}],
)
def test_altered_statistics_are_refused(change: dict[str, object]) -> None:
    told = of_public(correlated(90, 4, 0), third(90)).model_dump()
    with pytest.raises(ValidationError):
        FeatureStatistics.model_validate(told | change)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_numbers_that_are_no_variances_are_refused(value: float, place: int) -> None:
    arrays = [array.copy() for array in of_public(correlated(90, 4, 0), third(90)).arrays()]
    arrays[place] = np.full_like(arrays[place], value)
    with pytest.raises(ValidationError, match=r"not (finite|positive)"):
        FeatureStatistics.pack(*arrays, origin="public", false_alarms=0.1, chosen_on="x", threshold=1.0)


def test_they_come_back_as_they_were_written() -> None:
    seen = of_public(correlated(90, 4, 0), third(90))
    assert FeatureStatistics.model_validate_json(seen.model_dump_json()) == seen


def whitened(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 8)) / math.sqrt(8)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_noised_moments_know_their_kind_and_what_is_far(sigma: float) -> None:
    values = whitened(800, 0)
    short = values / np.maximum(1, np.linalg.norm(values, axis=1, keepdims=True))
    seen = of_moments(moments_of(short, np.arange(800) % 4 == 0, sigma))
    assert seen is not None
    assert (seen.origin, seen.images) == ("noised", None)
    assert (seen.scores(whitened(2000, 1)) > 1).mean() < 0.1
    assert (seen.scores(3 * whitened(500, 2)) > 1).mean() > 0.8


def test_moments_that_noise_has_drowned_know_nothing() -> None:
    values = whitened(40, 0)
    assert of_moments(moments_of(values, np.arange(40) % 2, 50.0)) is None
    assert of_moments(NoisyMoments.empty(8)) is None


@pytest.fixture(scope="module")
def sees() -> Classifier:
    """A network with ImageNet weights, which come as a package."""
    try:
        file = find_weights("efficientnet_lite0", download=False)
    except WeightsError:
        pytest.skip("the extra 'demo' (weights of EfficientNet-Lite0) is not installed")
    choices = Choices(backbone="efficientnet_lite0", pretrained=True)
    return build_classifier(choices, seed=0, state=load_weights(file, "efficientnet_lite0"))


def rendered(camera: Camera, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    traits = [sample_traits(rng, melanoma=False, melanin=0.3, hairiness=0.3) for _ in range(n)]
    return np.stack([render_lesion(each, camera, SIDE, rng) for each in traits])


def test_photographs_of_other_things_and_other_cameras_are_unlike_lesions(sees: Classifier) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    names = ("astronaut", "chelsea", "coffee", "rocket")
    own = cameras(("a", "b", "c"), 0)
    seen = statistics(sees, np.concatenate([rendered(each, 40, place) for place, each in enumerate(own)]), 0.05)

    def unlike(images: np.ndarray) -> float:
        return float((seen.scores(features(sees, images)) > 1).mean())

    assert unlike(np.concatenate([rendered(each, 10, 50 + place) for place, each in enumerate(own)])) < 0.25
    photographs = [np.asarray(Image.fromarray(getattr(data, name)()).resize((SIDE, SIDE))) for name in names]
    assert unlike(np.stack(photographs)) == 1
    other = replace(own[0], cast=(0.5, 1.5, 0.5), field=0.4, contrast=3.0)
    assert unlike(rendered(other, 10, 90)) > 0.8


@pytest.mark.exhaustive
def test_real_lesions_of_a_source_held_out_are_known_and_photographs_are_not(sees: Classifier, shared: Path) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    table = read_table(shared / "data" / "ham10000")
    sources = {name: [r for r in table.records if r.source == name] for name in {r.source for r in table.records}}
    held_out = sources.pop("HAM_rosendahl")
    chosen = [record for records in sources.values() for record in records[:: max(1, len(records) // 90)]]
    seen = statistics(sees, np.stack([decode(table.root / record.image, 96) for record in chosen]), 0.05)
    new = np.stack([decode(table.root / record.image, 96) for record in held_out[:: len(held_out) // 60]])
    assert (seen.scores(features(sees, new)) > 1).mean() < 0.2
    photographs = []
    for path in sorted(Path(data.__file__).parent.glob("*.[pj][np]g")):
        try:
            photographs.append(decode(path, 96))
        except ImageProblem:
            continue
    assert (seen.scores(features(sees, np.stack(photographs))) > 1).mean() > 0.8
