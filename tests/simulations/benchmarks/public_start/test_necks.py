"""Necks of other kinds: the default is the product's own, and each option does what it says."""

import numpy as np
import pytest

from melfed.common.errors import StudyError
from melfed.common.model.neck import whitening
from melfed.simulations.benchmarks.public_start.necks import (
    NeckWay,
    blinded,
    class_effects,
    fitted_head,
    fitted_neck,
    labels_head,
    needed,
    spectrum_of,
)
from tests.simulations.benchmarks.public_start.records import features_of, of_sources

RECORDS = of_sources([("A", 60, 20), ("B", 40, 10), ("C", 30, 0)])
POOLED = features_of(RECORDS)
LOGITS = POOLED @ np.arange(12) / 12 - 1.0


def neck(way: NeckWay) -> np.ndarray:
    spectrum = spectrum_of(POOLED, RECORDS, way.balance, 12)
    return fitted_neck(POOLED, LOGITS, RECORDS, spectrum, way, 3.0).features(POOLED).astype(np.float64)


@pytest.mark.parametrize(
    "text",
    ["features=0", "features=x", "width=3", "blind=yes", "shrinkage=-1", "balance=all", "blind=true,shrinkage=1"],
)
def test_a_neck_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="write features=N"):
        NeckWay.read(text)


def test_a_neck_is_named_by_what_is_not_usual() -> None:
    assert str(NeckWay.read("")) == "64"
    assert str(NeckWay.read("features=16,blind=true,head=network")) == "16, blind=true, head=network"


@pytest.mark.parametrize("shrinkage", [0.0, 0.5])
def test_without_options_it_is_the_products_own_neck(shrinkage: float) -> None:
    mean, projection = whitening(POOLED, 5, shrinkage)
    oracle = (POOLED - mean) @ projection
    found = neck(NeckWay(5, shrinkage=shrinkage))
    signs = np.sign((oracle * found).sum(axis=0))
    np.testing.assert_allclose(found * signs, oracle, atol=1e-4)


@pytest.mark.parametrize("changes", ["", "shrinkage=1", "blind=true", "order=class"])
def test_features_have_a_norm_of_one_in_the_mean(changes: str) -> None:
    assert (neck(NeckWay.read(f"features=5,{changes}")) ** 2).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-4)


def test_shrinkage_keeps_what_varies_more_longer() -> None:
    variances = neck(NeckWay(5, shrinkage=2.0)).var(axis=0)
    assert (np.diff(variances) < 0).all()
    assert neck(NeckWay(5)).var(axis=0) == pytest.approx(np.full(5, 0.2), rel=1e-4)


def test_balanced_statistics_are_those_of_repeated_images() -> None:
    balanced = neck(NeckWay(5, balance="source"))
    # 80, 50 and 30 images: 15, 24 and 40 copies make the sources equal.
    copies = {"A": 15, "B": 24, "C": 40}
    index = np.repeat(np.arange(len(RECORDS)), [copies[each.source] for each in RECORDS])
    mean, projection = whitening(POOLED[index], 5)
    oracle = (POOLED - mean) @ projection
    np.testing.assert_allclose(balanced * np.sign((oracle * balanced).sum(axis=0)), oracle, atol=1e-4)


def test_a_blind_neck_has_the_same_mean_for_every_source_of_one_class() -> None:
    only = [each for each in RECORDS if each.target == 0]
    pooled = features_of(only)
    way = NeckWay(5, blind=True, head="network")
    spectrum = spectrum_of(pooled, only, "none", needed([way], only))
    found = fitted_neck(pooled, np.zeros(len(only)), only, spectrum, way, 3.0).features(pooled)
    seeing = fitted_neck(pooled, np.zeros(len(only)), only, spectrum, NeckWay(5, head="network"), 3.0).features(pooled)
    source = np.array([each.source for each in only])
    for name in "ABC":
        assert np.abs(found[source == name].mean(axis=0)).max() < 1e-5
        assert np.abs(seeing[source == name].mean(axis=0)).max() > 0.05


def test_a_blind_basis_is_orthonormal_and_leads_with_leading_components() -> None:
    scores = spectrum_of(POOLED, RECORDS, "none", 12).scores(POOLED, 12)
    basis = blinded(scores, RECORDS)
    assert basis.shape == (12, 10), "two directions between three sources"
    np.testing.assert_allclose(basis.T @ basis, np.eye(10), atol=1e-9)
    assert np.abs(basis[:3, 0]).max() > np.abs(basis[:3, -1]).max()


def test_classes_are_told_within_sources() -> None:
    records = of_sources([("A", 200, 200), ("B", 390, 10)])
    source = np.array([each.source == "A" for each in records], float)
    target = np.array([each.target for each in records], float)
    random = np.random.default_rng(0)
    scores = np.stack([10 * source, target], axis=1) + random.normal(size=(len(records), 2))
    by_source, by_class = class_effects(scores, records)
    assert by_class > 5 > 3 > by_source


def test_a_head_comes_nearest_to_logits_by_weighted_squares() -> None:
    random = np.random.default_rng(0)
    features, weights = random.normal(size=(50, 4)), random.uniform(0.5, 2.0, 50)
    logits = features @ np.array([1.0, -2.0, 0.0, 3.0]) + 0.7
    assert fitted_head(features, logits, weights) == pytest.approx([1.0, -2.0, 0.0, 3.0, 0.7])
    noisy = logits + random.normal(size=50)
    rest = noisy - np.append(features, np.ones((50, 1)), axis=1) @ fitted_head(features, noisy, weights)
    assert np.abs((features * weights[:, None]).T @ rest).max() < 1e-9


def test_a_head_of_labels_knows_their_direction() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 2))
    target = (features[:, 0] + random.normal(size=400) > 1).astype(np.int64)
    head = labels_head(features, target, np.ones(400))
    assert head[0] > 5 * abs(head[1])
    assert head[2] < 0
    assert labels_head(features, target, np.where(target == 1, 5.0, 1.0))[2] > head[2]


def test_more_features_than_there_are_are_refused() -> None:
    with pytest.raises(StudyError, match="12 features at most"):
        neck(NeckWay(13))
