"""The report in a real browser: it is drawn, fits narrow screens, and asks nothing of the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from melfed.server.report.page import write_report
from tests.browser import CONTRASTS, show, started
from tests.server.fake_run import CHOICES, NOISED, PRIVATE, PUBLIC, FakeRun

LONG = "<script>document.title='broken in'</script>" + "a-very-long-name-without-any-blank" * 3
RUNS = {
    "federated": FakeRun(failed={"rosendahl": "no answer within 900 s"}),
    "local": FakeRun(
        mode="local",
        synthetic=True,
        clinics=(LONG, "b", "c", "d"),
        left_out=[(LONG, LONG)],
        melanoma_rates=(0.2, 0.1, 0, 1),
    ),
    "private": FakeRun(
        privacy=PRIVATE,
        choices=CHOICES,
        public=PUBLIC,
        warnings=(LONG,),
        clinics=(LONG, "b", "c", "d"),
        declined={LONG: LONG},
        failed={"b": LONG},
    ),
    "noised": FakeRun(privacy=NOISED, images=(2400, 1400, 900, 500), rounds=2),
    "low": FakeRun(shift=-2.0),  # few scores reach 0.5, at the right end of their figure
}
DRAWN = {"federated": 9, "local": 8, "private": 8, "noised": 7, "low": 9}
FIGURES = """return [...document.querySelectorAll('figure svg')].map(svg => {
  const box = svg.getBoundingClientRect();
  const outside = [...svg.querySelectorAll('text')].filter(text => {
    const b = text.getBoundingClientRect();
    const wide = b.left < box.left - 1 || b.right > box.right + 1;
    return b.width && (wide || b.top < box.top - 1 || b.bottom > box.bottom + 1);
  }).map(text => text.textContent);
  const length = [...svg.querySelectorAll('path')].reduce((sum, line) => sum + line.getTotalLength(), 0);
  return {width: box.width, height: box.height, length, outside};
})"""
KINDS = (
    *("h1", ".lead", ".notice", "nav a", ".card .big", ".card .soft", "th", "td small", "figcaption", ".chart text"),
    *(".warning", ".words th", ".words td", ".facts dt", ".meaning dd"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_report(run.write(folder / name)) for name, run in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
def test_page_opens_without_errors_and_loads_nothing(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name].as_uri(), 1280)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.title.endswith("melfed report (synthetic images)" if RUNS[name].synthetic else "melfed report")


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", RUNS)
def test_figures_are_drawn_and_nothing_sticks_out(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    show(browser, pages[name].as_uri(), width)
    figures = browser.execute_script(FIGURES)
    assert len(figures) == DRAWN[name]
    for figure in figures:
        assert figure["width"] > 250
        assert figure["height"] > 100
        assert figure["length"] > 100
        assert figure["outside"] == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "kinds"), [("local", 15), ("private", 15)])
def test_text_has_contrast(browser: Any, pages: dict[str, Path], name: str, kinds: int, scheme: str) -> None:
    show(browser, pages[name].as_uri(), 1280, scheme)
    contrasts = browser.execute_script(CONTRASTS, KINDS)
    assert len(contrasts) == kinds
    for kind, contrast in contrasts:
        assert contrast >= 4.5, kind
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(246, 247, 249)") == (scheme == "light")


@pytest.mark.parametrize("name", ["private", "noised"])
def test_tables_of_words_need_no_scrolling_on_a_phone(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name].as_uri(), 400)
    boxes = (
        "return [...document.querySelectorAll('table.words')].map(t => [t.parentElement.clientWidth, t.scrollWidth])"
    )
    found = browser.execute_script(boxes)
    assert len(found) == (4 if name == "private" else 2)
    assert all(table <= box for box, table in found)
