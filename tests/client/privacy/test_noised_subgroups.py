"""The release of subgroups: how far one unit can move all of it, and that every number of it is noised."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noised_subgroups import noised_subgroups, sensitivity
from melfed.common.data.records import LesionRecord
from melfed.common.data.subgroups import ATTRIBUTES, cell_names
from melfed.common.errors import DataError, StudyError
from melfed.common.metrics.noisy_histogram import SENSITIVITY, NoisyHistogram, pooled
from melfed.common.metrics.score_edges import SCORE_BINS
from tests.common.noisy import EDGES, SeededNoise, noised

PLAIN = LesionRecord("a", 0, "nv", "p", None, None, None, None, None, "here")
ALL = tuple(ATTRIBUTES)
IMAGES = st.lists(
    st.builds(
        lambda logit, target, age, sex, site, skin: (
            logit,
            dataclasses.replace(PLAIN, target=target, age=age, sex=sex, site=site, skin_type=skin),
        ),
        st.floats(-60, 60) | st.just(np.inf),
        st.integers(0, 1),
        st.none() | st.floats(allow_nan=True),
        st.sampled_from([None, "male", "female"]),
        st.sampled_from([None, "torso", "head/neck"]),
        st.none() | st.integers(-1, 8),
    ),
    max_size=12,
)
Image = tuple[float, LesionRecord]


def released(
    images: list[Image], units: list[str], attributes: tuple[str, ...] = ALL, sigma: float = 0.0
) -> dict[str, NoisyHistogram]:
    records = [dataclasses.replace(record, image=f"{n:03}") for n, (_, record) in enumerate(images)]
    logits = [logit for logit, _ in images]
    return noised_subgroups(records, logits, units, attributes, sigma, NoiseSource(), EDGES)


def moved(one: dict[str, NoisyHistogram], other: dict[str, NoisyHistogram]) -> float:
    assert one.keys() == other.keys()
    parts = [getattr(one[cell], n) - getattr(other[cell], n) for cell in one for n in ("positives", "negatives")]
    return float(np.linalg.norm(np.concatenate(parts).astype(float)))


@settings(deadline=None, max_examples=60)
@given(IMAGES, IMAGES.filter(bool), st.integers(1, len(ALL)), st.data())
def test_no_unit_moves_all_cells_together_further_than_the_sensitivity(
    others: list[Image], unit: list[Image], count: int, data: st.DataObject
) -> None:
    attributes = tuple(data.draw(st.permutations(ALL)))[:count]
    names = [f"other {data.draw(st.integers(0, 4))}" for _ in others]
    without = released(others, names, attributes)
    with_ = released(others + unit, [*names, *["it"] * len(unit)], attributes)
    assert moved(without, with_) <= sensitivity(attributes)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_sensitivity_is_reached(count: int) -> None:
    attributes = ALL[:count]
    unit = [(-99.0, dataclasses.replace(PLAIN, target=1, sex="male")), (99.0, dataclasses.replace(PLAIN, sex="female"))]
    far = moved(released([], [], attributes), released(unit, ["it"] * 2, attributes))
    assert 0.99 * math.sqrt(count) * SENSITIVITY < far <= sensitivity(attributes)


def test_every_cell_is_there_and_noised_with_its_own_noise_even_if_nobody_is_in_it() -> None:
    noise = SeededNoise(1)
    found = noised_subgroups([], [], [], ("sex", "skin_type"), 1.5, noise, EDGES)  # type: ignore[arg-type]
    assert tuple(found) == cell_names(("sex", "skin_type"))
    assert noise.stds == [1.5 * sensitivity(("sex", "skin_type"))] * 2 * len(found)
    rows = [tuple(getattr(h, name)) for h in found.values() for name in ("positives", "negatives")]
    assert len(set(rows)) == len(rows)
    assert all(len(row) == SCORE_BINS and any(row) for row in rows)
    std = 1.5 * math.sqrt(2)
    assert all(h.noise_std >= std * noised(np.zeros(0), np.zeros(0), 1.0).noise_std * 0.999999 for h in found.values())


def test_the_cells_of_an_attribute_are_the_whole_part() -> None:
    random = np.random.default_rng(0)
    images = [
        (float(random.normal()), dataclasses.replace(PLAIN, target=int(n % 3 == 0), sex=["male", None][n % 2]))
        for n in range(40)
    ]
    units = [f"{n // 2}" for n in range(40)]
    found = released(images, units, ("sex",))
    whole = released(images, units, ("skin_type",))["skin_type/6"]
    together = pooled(found.values())
    assert np.array_equal(together.positives, whole.positives)
    assert np.array_equal(together.negatives, whole.negatives)


def test_wrong_input_is_an_error_in_one_line() -> None:
    for sigma in (-1.0, math.nan, 1e5):
        with pytest.raises(StudyError, match=r"^a noise multiplier of .* for subgroups: state one from 0 to 10000$"):
            released([], [], ("sex",), sigma)
    with pytest.raises(DataError, match="not a number"):
        released([(math.nan, PLAIN)], ["it"])
