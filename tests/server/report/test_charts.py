import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from melfed.server.report import charts
from melfed.server.report.charts import COLOURS, Chart
from tests.server.report.reading import Reader, path_of

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    with charts.settings():
        yield


def test_a_line_lies_where_its_values_are() -> None:
    chart = Chart(100)
    chart.axes[0].set(xlim=(0, 1), ylim=(0, 10))
    chart.axes[0].plot((0, 1), (0, 10), gid="curve")
    expected = [(charts.LEFT, charts.TOP + 100), (charts.WIDTH - charts.RIGHT, charts.TOP)]
    np.testing.assert_allclose(path_of(chart.svg("x")), expected, atol=1e-5)


def test_a_chart_holds_its_marks_and_speaks() -> None:
    chart = Chart(100)
    (dot,) = chart.axes[0].plot(0.5, 0.5, "o", color=COLOURS["auroc"])
    chart.tell(dot, "half & half")
    image = chart.svg('a "chart"')
    assert "<title>half &amp; half</title>" in image
    assert 'role="img" aria-label="a &quot;chart&quot;"' in image
    assert "fill: var(--auroc)" in image
    assert not re.search("#[0-9a-f]{6}|url\\(|https?:|<style|<metadata", image)


def test_words_are_never_read_as_formulas_or_tags(recwarn: pytest.WarningsRecorder) -> None:
    odd = ["$x^2$", "a\x07b", "東京 \u202e", "</text><script>", "#000001"]
    chart = Chart(100)
    for text in odd:
        chart.write(chart.axes[0], (0, 0), text, tip=text)
    read = Reader(str(chart.svg("words")))  # a plain text: adding to markup would escape what was read
    assert [text for text in odd if read.words.count(text) < 2] == []
    assert "script" not in {tag for tag, _ in read.tags}
    assert not recwarn.list


def test_two_charts_share_no_id() -> None:
    found = []
    for name in ("one", "two"):
        chart = Chart(100)
        chart.axes[0].plot((0, 1), (0, 1), "o")
        found += re.findall(' id="([^"]*)"', chart.svg(name))
    assert found
    assert len(set(found)) == len(found)


def test_the_users_settings_are_neither_read_nor_changed() -> None:
    def drawn() -> str:
        with charts.settings():
            chart = Chart(100)
            chart.axes[0].plot((0, 1), (0, 1))
            return chart.svg("x")

    plain = drawn()
    with mpl.rc_context({"lines.linewidth": 9, "savefig.bbox": "tight", "axes.grid": False, "font.size": 30}):
        before = dict(mpl.rcParams)
        assert drawn() == plain
        assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("home", ["folder", "file"])
def test_nothing_is_written_to_a_home_and_one_that_cannot_be_written_says_nothing(home: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("folder", "temporary"):
        (tmp_path / name).mkdir()
    places = {"HOME": str(tmp_path / home), "TMPDIR": str(tmp_path / "temporary")}
    places |= dict.fromkeys(("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"), "")
    code = "from melfed.server.report import charts\nwith charts.settings(): charts.Chart(50).svg('x')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=os.environ | places,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "temporary"]
