"""Moments as they travel and merge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.errors import DataError
from melfed.common.moments.noisy_moments import (
    SCALE,
    NoisyMoments,
    length_of,
    noise_variance,
    pooled,
    triangle,
    vectors,
)


def some(seed: int, features: int = 4, sigma: float = 1.0) -> NoisyMoments:
    random = np.random.default_rng(seed)
    numbers = [random.integers(-(2**30), 2**30, length_of(features)) for _ in range(2)]
    return NoisyMoments(*numbers, noise_variance(sigma))


@given(st.integers(1, 12), st.integers(0, 5))
def test_a_second_moment_is_symmetric_and_its_triangle_has_its_norm(features: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(3, features))
    assert len(triangle(features)[0]) == features * (features + 1) // 2
    assert np.linalg.norm(vectors(x)[:, 1 + features :], axis=1) == pytest.approx((x**2).sum(1))
    moments = some(seed, features)
    assert moments.features == features
    assert np.array_equal(moments.second("positives"), moments.second("positives").T)


def test_what_was_added_is_read_back() -> None:
    x = np.random.default_rng(0).normal(size=(5, 4)) / 4
    sums = np.trunc(vectors(x) * SCALE).astype(np.int64).sum(0)
    moments = NoisyMoments(sums, sums, np.zeros(1))
    assert moments.count("negatives") == 5
    assert moments.total("negatives") == pytest.approx(x.sum(0), abs=1e-6)
    assert moments.second("positives") == pytest.approx(x.T @ x, abs=1e-6)


def test_the_sum_is_the_same_in_whatever_order() -> None:
    one, two, three = some(1), some(2), some(3)
    together, turned = pooled([one, two, three]), pooled([three, one, two])
    assert np.array_equal(together.positives, turned.positives)
    assert np.array_equal(together.noise_variance, turned.noise_variance)
    assert np.array_equal((one + two).negatives, one.negatives + two.negatives)
    assert np.array_equal((one + NoisyMoments.empty(4)).positives, one.positives)


def test_they_travel() -> None:
    moments = some(0)
    there = NoisyMoments.from_arrays(moments.to_arrays())
    assert np.array_equal(there.positives, moments.positives)
    assert there.noise_std == moments.noise_std


def test_what_is_none_is_refused() -> None:
    arrays = some(0).to_arrays()
    k = length_of(4)
    wrong = {
        "float64": {"positives": arrays["positives"].astype(np.float64)},
        "moments of no features": {"positives": np.zeros(k + 1, np.int64), "negatives": np.zeros(k + 1, np.int64)},
        "and 2 numbers": {"negatives": np.zeros(2, np.int64)},
        "no variance": {"noise_variance": np.array([np.nan])},
        "beyond what": {"positives": np.full(k, 2**61)},
        "more than 4096": {"positives": np.zeros(length_of(4097), np.int8).astype(np.int64)},
    }
    wrong["more than 4096"]["negatives"] = wrong["more than 4096"]["positives"]
    del wrong["float64"]
    for words, changed in wrong.items():
        with pytest.raises(DataError, match=words):
            NoisyMoments.from_arrays({**arrays, **changed})
    with pytest.raises(DataError, match="not an array of int64"):
        NoisyMoments.from_arrays({**arrays, "positives": arrays["positives"].astype(np.float64)})
    with pytest.raises(DataError, match="missing or unknown"):
        NoisyMoments.from_arrays({"positives": arrays["positives"]})


def test_what_cannot_be_added_up_is_refused() -> None:
    with pytest.raises(DataError, match="no moments"):
        pooled([])
    with pytest.raises(DataError, match="different features"):
        pooled([some(0), some(0, 5)])
