"""The report's figures."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from melfed.server.report import charts
from melfed.server.report.figures import _fitted_bins, loss_figure, score_bars, validation_figure
from tests.server.fake_run import FakeRun, noised_scores


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
