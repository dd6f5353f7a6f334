"""The figure of what clinics added: where its points and intervals lie, and whose they are."""

from collections.abc import Iterator
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes

from melfed.common.moments.worth import Estimate, Judge, Worth
from melfed.server.report.worth import worth_svg

NAMES = ("north", 'a & <b> "c"', "ü")


def worth_of(judge: Judge = "auroc") -> Worth:
    alone = {name: Estimate(0.1 * n, 0.1 * n - 0.02, 0.1 * n + 0.03) for n, name in enumerate(NAMES)}
    shapley = {name: Estimate(-0.2 * n, -0.2 * n - 0.05, -0.2 * n + 0.01) for n, name in enumerate(NAMES)}
    return Worth(judge, Estimate(0.6, 0.5, 0.7), Estimate(0.8, 0.7, 0.9), alone, shapley, {})


@pytest.fixture(autouse=True)
def words() -> Iterator[None]:
    """Words are drawn as text, so that they can be read."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        yield


def texts(svg: str) -> list[str]:
    return ["".join(e.itertext()).strip() for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


@pytest.mark.parametrize(("judge", "word"), [("auroc", "binormal AUROC"), ("squared_error", "squared error")])
def test_it_says_whose_points_they_are_and_by_which_judge(judge: Judge, word: str) -> None:
    found = texts(worth_svg(worth_of(judge)))
    assert [text for text in found if text in NAMES] == list(NAMES)
    assert f"change of the {word} by all moments (95 %)" in found
    assert [text for text in found if text in ("adds to all others", "Shapley's value")] == [
        "adds to all others",
        "Shapley's value",
    ]


def test_points_and_limits_are_those_that_were_found(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[float], list[float], list[list[float]]]] = []
    original = Axes.errorbar

    def errorbar(axes: Axes, x: list[float], y: list[float], xerr: list[list[float]], **how: object) -> object:
        drawn.append((x, y, xerr))
        return original(axes, x, y, xerr=xerr, **how)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    worth_svg(worth_of())
    (alone, shapley) = drawn
    assert alone[0] == pytest.approx([0.0, 0.1, 0.2])
    assert shapley[0] == pytest.approx([0.0, -0.2, -0.4])
    assert alone[1] == pytest.approx([-0.12, 0.88, 1.88])
    assert shapley[1] == pytest.approx([0.12, 1.12, 2.12])
    assert alone[2][0] == pytest.approx([0.02] * 3)
    assert alone[2][1] == pytest.approx([0.03] * 3)
    assert shapley[2][0] == pytest.approx([0.05] * 3)
    assert shapley[2][1] == pytest.approx([0.01] * 3)


def test_a_name_is_no_formula() -> None:
    name = r"$\nonsense$"
    estimate = {name: Estimate(0.0, 0.0, 0.0), "b": Estimate(0.0, 0.0, 0.0)}
    assert name in texts(
        worth_svg(Worth("auroc", Estimate(0.5, 0.5, 0.5), Estimate(0.5, 0.5, 0.5), estimate, estimate, {}))
    )


def test_there_is_no_date_in_it() -> None:
    assert "<dc:date>" not in worth_svg(worth_of())
