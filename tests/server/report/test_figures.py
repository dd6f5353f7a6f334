"""The report's figures."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from melfed.common.metrics.noisy import metrics_of, pr_of
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.server.report import charts
from melfed.server.report.figures import (
    _fitted_bins,
    calibration_figure,
    loss_figure,
    one_a_recall,
    pr_figure,
    score_bars,
    scores_figure,
    validation_figure,
)
from tests.server.fake_run import FakeRun, noised_scores, scores
from tests.server.report.reading import path_of


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with charts.settings():
        yield


def labels(svg: str) -> list[str]:
    """The words of an SVG without its tips."""
    return re.findall(r"<text[^>]*>([^<]*)", svg)


@pytest.mark.parametrize(("rounds", "first"), [(1, "1"), (2, "1"), (5, "1"), (90, "20")])
def test_rounds_have_few_whole_ticks(tmp_path: Path, rounds: int, first: str) -> None:
    summary = (
        FakeRun(rounds=rounds, clinics=("a",), images=(200,), melanoma_rates=(0.3,)).write(tmp_path / "x").summary()
    )
    for drawn in (loss_figure(summary.rounds), validation_figure(summary.rounds)):
        assert drawn.image is not None
        found = labels(drawn.image)
        ticks = found[: found.index("Round")]
        assert 1 <= len(ticks) <= 7
        assert all(re.fullmatch(r"\d+", tick) and 1 <= int(tick) <= rounds for tick in ticks)
        assert first in ticks


def test_fitted_densities_lie_where_the_scores_are() -> None:
    skill = 1.7
    found = _fitted_bins(noised_scores(np.random.default_rng(1), 20_000, 0.3, skill=skill))
    assert found is not None
    edges, shares = score_bars(found)
    middles = (edges[1:] + edges[:-1]) / 2
    for style, expected in (("other", -2.4), ("melanoma", -2.4 + skill * 1.2)):
        assert float(shares[style].sum()) == pytest.approx(1, abs=0.01)
        assert float(middles @ shares[style]) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("kind", [scores, noised_scores])
@pytest.mark.parametrize("seed", range(3))
def test_the_precision_recall_curve_has_no_stroke_along_the_axis(kind: Callable[..., Histogram], seed: int) -> None:
    found = kind(np.random.default_rng(seed), 4000, 0.2, skill=1.7)
    metrics = metrics_of(found)
    drawn = pr_figure(found, metrics).image
    assert drawn is not None
    steps = np.diff(path_of(str(drawn)), axis=0)
    assert (steps[steps[:, 0] <= 0] == 0).all(), "no part of it goes straight up or down; matplotlib repeats the end"
    # The first point is of the first melanoma found, and no sooner.
    recall, first = one_a_recall(pr_of(found).recall, metrics.melanomas)
    assert recall[0] >= (1 - 1e-6) / metrics.melanomas
    assert len(recall) == len(first) <= metrics.melanomas


def test_a_recall_is_drawn_where_it_is_reached_first() -> None:
    recall, first = one_a_recall(np.array([0.0, 0.25, 0.25, 0.25, 0.5, 1.0, 1.0]), 4)
    assert (recall.tolist(), first.tolist()) == ([0.25, 0.5, 1.0], [1, 4, 5])


@pytest.mark.parametrize(("shift", "anchor"), [(-3.0, "end"), (6.0, None)])
def test_the_threshold_is_named_on_the_side_where_there_is_room(shift: float, anchor: str | None) -> None:
    found = scores(np.random.default_rng(0), 4000, 0.2, skill=1.7, shift=shift)
    drawn = scores_figure(found, metrics_of(found)).image
    label = re.search(r"<text([^>]*)>threshold 0\.5", str(drawn))
    assert label is not None
    assert ("text-anchor: end" in label[1]) == (anchor == "end")


def test_the_number_of_images_stands_inside_the_strip_of_bars() -> None:
    found = scores(np.random.default_rng(0), 4000, 0.2, skill=1.7, shift=-3.0)
    drawn = calibration_figure(found, metrics_of(found)).image
    most = f"{found.calibration_counts.max():,}"
    assert len(most) == 5
    assert f"highest bar: {most}" in labels(str(drawn))
    assert most not in labels(str(drawn)), "not beside the axis, where it would leave the card"
