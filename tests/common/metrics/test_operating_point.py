"""Operating points: thresholds with what was asked for, the promised interval, and refusals that say what to do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from melfed.common.metrics.calibration_map import Lacking
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.operating_point import TOLERANCE, Kind, at_threshold, exact_limits, operating_point
from tests.common.metrics.normal_scores import exact, noised, scores


def test_limits_are_clopper_and_pearsons() -> None:
    for hits, size in ((0, 10), (7, 10), (10, 10), (95, 100)):
        oracle = binomtest(hits, size).proportion_ci(method="exact")
        assert exact_limits(hits / size, size) == pytest.approx((oracle.low, oracle.high))


@given(
    st.lists(st.integers(-20, 20), min_size=30, max_size=80), st.sampled_from(["sensitivity", "specificity"]), st.data()
)
def test_no_other_threshold_has_as_much_of_what_is_asked_and_more_of_the_other(
    values: list[int], kind: Kind, data: st.DataObject
) -> None:
    y = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(values), max_size=len(values))))
    wanted = data.draw(st.sampled_from([0.5, 0.8, 0.95]))
    x = np.array(values, np.float64)
    point = operating_point(exact(x, y), kind, wanted)
    if point.logit is None:
        assert point.lacking is not None
        return

    def of(threshold: float) -> dict[Kind, float]:
        return {
            "sensitivity": float((x[y == 1] >= threshold).mean()),
            "specificity": float((x[y == 0] < threshold).mean()),
        }

    other: Kind = "specificity" if kind == "sensitivity" else "sensitivity"
    chosen = of(point.logit)
    assert chosen[kind] >= wanted - 1e-9
    assert chosen == {k: pytest.approx(getattr(point.validation, k).value) for k in ("sensitivity", "specificity")}
    for threshold in np.arange(-21.5, 22):
        if of(threshold)[kind] >= wanted - 1e-9:
            assert of(threshold)[other] <= chosen[other] + 1e-9


def test_few_melanomas_cannot_promise_and_the_number_that_is_told_can() -> None:
    refused = operating_point(exact(*scores(20, 400)), "sensitivity", 0.95)
    assert refused.logit is None
    assert refused.lacking is not None
    needed = refused.lacking.needed
    assert needed is not None
    assert 20 < needed < 200
    assert str(refused.lacking).endswith(f"about {needed} with a melanoma would be needed in the part")
    enough = operating_point(exact(*scores(needed, 400)), "sensitivity", 0.95)
    assert enough.logit is not None
    fewer = operating_point(exact(*scores(int(needed / 1.1) - 1, 400)), "sensitivity", 0.95)
    assert fewer.logit is None
    others = operating_point(exact(*scores(400, 10)), "specificity", 0.95)
    assert others.lacking is not None
    assert "without a melanoma" in str(others.lacking)


def test_noise_asks_for_more_melanomas_and_hides_them_in_the_end() -> None:
    x, y = scores(250, 2000)
    assert operating_point(exact(x, y), "sensitivity", 0.95).logit is not None
    noisy = operating_point(noised(x, y, 8.0), "sensitivity", 0.95)
    assert noisy.logit is None
    assert noisy.lacking is not None
    assert (noisy.lacking.needed or 0) > 250
    hidden = operating_point(noised(*scores(20, 400), 8.0), "sensitivity", 0.95)
    assert hidden.lacking is not None
    assert hidden.lacking.reason == "the noise hides a class"
    assert operating_point(ScoreHistogram.empty(), "specificity", 0.9).lacking == Lacking(
        reason="validation has images of one class alone"
    )


@pytest.mark.parametrize(("kind", "wanted"), [("sensitivity", 0.95), ("sensitivity", 0.8), ("specificity", 0.9)])
def test_noised_scores_promise_what_is_so_and_tell_of_others(kind: Kind, wanted: float) -> None:
    x, y = scores(1500, 6000)
    point = operating_point(noised(x, y, 4.0), kind, wanted, test=noised(*scores(1500, 6000, 1), 4.0, 2))
    assert point.logit is not None
    assert point.name == f"{kind} {wanted:g}"
    true = {"sensitivity": (x[y == 1] >= point.logit).mean(), "specificity": (x[y == 0] < point.logit).mean()}
    for part in (point.validation, point.test):
        for name in ("sensitivity", "specificity"):
            found = getattr(part, name)
            assert found.low - 0.02 <= true[name] <= found.high + 0.02
    assert abs(true[kind] - wanted) < TOLERANCE


def test_a_threshold_applied_to_others_is_counted_by_hand() -> None:
    h = ScoreHistogram.from_scores([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1], list("abcd"))
    found = at_threshold(h, 1.5)
    assert (found.sensitivity.value, found.specificity.value) == (0.5, 0.5)
    assert at_threshold(h, 1.0).sensitivity.value == 1.0, "the threshold itself is called"
    assert at_threshold(ScoreHistogram.empty(), 0.0).sensitivity.value is None
