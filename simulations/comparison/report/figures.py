"""The figures of a comparison, drawn on axes: in the page's colours for HTML, in plain ones for the PDF."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melfed.server.report.charts import COLOURS, Chart
from melfed.server.report.figures import Figure as PageFigure
from melfed.simulations.comparison.finding import Finding
from melfed.simulations.comparison.grid import label
from melfed.simulations.comparison.pairs import Ranking
from melfed.simulations.comparison.report.tables import grouped
from melfed.simulations.comparison.results import Result
from melfed.simulations.comparison.statistics.differences import seed_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN = {
    "ink": "#1c2430",
    "soft": "#566172",
    "card": "#ffffff",
    "grid": "#e8ebf0",
    "chance": "#6b7584",
    "auroc": "#0067a8",
    "auprc": "#00785a",
    "melanoma": "#c04f00",
    "other": "#5b7590",
}
"""The light colours of the report's style sheet."""
SERIES = ("auroc", "auprc", "melanoma", "other")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NAMED_POINTS = 24
SCALE = {"parameters": 1e-6, "latency": 1.0}
NAME_LINE, LETTER, NAME_LINES = 11.0, 5.6, 12  # points: of a name, of a letter; lines up or down at most
CD_HEIGHT, CD_LINE = 90, 17  # pixels: of the axis with its bars, and a name


@dataclass(frozen=True)
class Drawn:
    """A figure before it is drawn.

    Attributes:
        name: in one word.
        title: heading.
        caption: what to see.
        description: for those who cannot see it.
        height: pixels.
        draw: draws it on axes, in colours by name.
        keys: legend: colour and words of each kind of mark.
    """

    name: str
    title: str
    caption: str
    description: str
    height: float
    draw: Callable[["Axes", Mapping[str, str]], None]
    keys: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Point:
    name: str
    series: int
    cost: float
    value: float
    low: float
    high: float


def figures(found: Finding) -> list[Drawn]:
    """Return the figures that can be drawn."""
    made = []
    for cost, axis, title in (
        ("parameters", "Parameters, millions", "AUROC against size"),
        ("latency", "Milliseconds an image, one CPU thread", "AUROC against latency"),
    ):
        points, series = _points(found, cost)
        if points:
            made.append(_scatter(points, series, cost, axis, title))
    if found.ranking.ranks is not None:
        made.append(_critical_difference(found.ranking))
    return made


def _points(found: Finding, cost: str) -> tuple[list[_Point], list[str]]:
    series: list[str] = []
    points = []
    for configuration, results in grouped(found.results).items():
        middle = _middle(results)
        if middle is None or results[0].costs is None:
            continue
        name = dict(configuration).get("model.backbone", label(configuration))
        rest = (
            label(tuple(pair for pair in configuration if pair[0] != "model.backbone"))
            if name != label(configuration)
            else ""
        )
        if rest not in series:
            series.append(rest)
        amount = getattr(results[0].costs, cost) * SCALE[cost]
        points.append(_Point(name, series.index(rest), amount, *middle))
    return points, series


def _middle(results: Sequence[Result]) -> tuple[float, float, float] | None:
    """Return mean AUROC and its limits: over seeds, or of one seed over patients."""
    intervals = [r.metrics.auroc for r in results if r.metrics and r.metrics.auroc.value is not None]
    values = [interval.value for interval in intervals if interval.value is not None]
    if not values:
        return None
    if len(values) == 1:
        return values[0], intervals[0].low or 0.0, intervals[0].high or 1.0
    mean, half = seed_interval(values)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _scatter(points: Sequence[_Point], series: Sequence[str], name: str, axis: str, title: str) -> Drawn:
    def draw(axes: "Axes", colours: Mapping[str, str]) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.set(xscale="log", xlabel=axis, ylabel="AUROC, test part")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        ends = min(point.cost for point in points), max(point.cost for point in points)
        # Three numbers a decade run into each other where there are more than two decades.
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1.0, 2.0, 5.0) if ends[1] < 100 * ends[0] else (1.0,), numticks=9)
        )
        axes.set_xlim(ends[0] / 1.5, ends[1] * (ends[1] / ends[0]) ** 0.2 * 1.5)  # with room for the last names
        for point in points:
            colour, marker = colours[SERIES[point.series % len(SERIES)]], MARKERS[point.series % len(MARKERS)]
            reach = [[max(0.0, point.value - point.low)], [max(0.0, point.high - point.value)]]
            axes.errorbar(point.cost, point.value, reach, color=colour, elinewidth=1, alpha=0.45, linestyle="")
            axes.plot(point.cost, point.value, marker, color=colour, markersize=6, linestyle="")
        if len(points) <= NAMED_POINTS:
            _name_points(axes, points, colours)

    keys = [(SERIES[i % len(SERIES)], words) for i, words in enumerate(series) if words] if len(series) > 1 else []
    described = "; ".join(f"{p.name} {series[p.series]}: {p.cost:.3g}, AUROC {p.value:.3f}" for p in points)
    caption = "A point is a configuration, the line its 95 % interval; left and up is better. The axis is logarithmic."
    return Drawn(name, title, caption, f"{title}. {described}.", 330, draw, tuple(keys))


def _name_points(axes: "Axes", points: Sequence[_Point], colours: Mapping[str, str]) -> None:
    """Write each point's name beside it, or below or above those that would be covered, with a line to the point.

    Names are taken to be as wide as their letters are on average: the page has another font than the one that draws.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    box = axes.get_window_extent()
    width, height = (72 * side / figure.dpi for side in (box.width, box.height))  # points, as the letters are
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float, float, float]] = []
    for point in sorted(points, key=lambda one: (-one.value, one.cost)):
        x = math.log(point.cost / x0) / math.log(x1 / x0) * width
        y = (point.value - y0) / (y1 - y0) * height
        long = LETTER * len(point.name)
        steps = sorted(range(-NAME_LINES, NAME_LINES + 1), key=abs)
        # Upwards or downwards to the nearest free line; where all are covered, beside the point.
        free = (n for n in steps if _is_free((x + 4, y + 3 + n * NAME_LINE, x + 4 + long), taken))
        up = next(free, 0) * NAME_LINE
        taken.append((x + 4, y + 3 + up, x + 4 + long, y + 3 + up + NAME_LINE))
        style: dict[str, Any] = {"fontsize": 9, "color": colours["soft"], "parse_math": False, "annotation_clip": False}
        line = {"arrowstyle": "-", "color": colours["chance"], "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        style |= {"arrowprops": line} if up else {}
        axes.annotate(point.name, (point.cost, point.value), (4, 3 + up), textcoords="offset points", **style)


def _is_free(place: tuple[float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> bool:
    """Tell whether a line of letters from left, bottom to right covers none that is there."""
    left, bottom, right = place
    return not any(
        left < other[2] and other[0] < right and bottom < other[3] and other[1] < bottom + NAME_LINE for other in taken
    )


def _critical_difference(ranking: Ranking) -> Drawn:
    ranks = ranking.ranks
    assert ranks is not None  # noqa: S101 (seen to by `figures`)
    order = sorted(range(len(ranks.mean)), key=ranks.mean.__getitem__)
    names = [label(ranking.configurations[number]) for number in order]
    means, cliques = [ranks.mean[number] for number in order], [[order.index(n) for n in c] for c in ranks.cliques()]
    half = (len(order) + 1) // 2
    bars = 14 + 8 * len(cliques)
    height = CD_HEIGHT + bars + CD_LINE * len(order)

    def draw(axes: "Axes", colours: Mapping[str, str]) -> None:
        low, high = 1.0, float(len(order))
        axes.set(xlim=(low - 0.05 * (high - low), high + 0.05 * (high - low)), ylim=(height, 0), yticks=())
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        ink: dict[str, Any] = {"color": colours["ink"], "linewidth": 1.2, "solid_capstyle": "butt"}
        text: dict[str, Any] = {"fontsize": 9, "color": colours["ink"], "parse_math": False, "annotation_clip": False}
        axes.plot((low, high), (60, 60), **ink)
        for rank in range(1, len(order) + 1):
            axes.plot((rank, rank), (55, 60), **ink)
            axes.annotate(str(rank), (rank, 52), ha="center", **text)
        axes.plot((low, min(high, low + ranks.critical)), (22, 22), color=colours["melanoma"], linewidth=2)
        axes.annotate(f"critical difference {ranks.critical:.2f}", (low, 16), **text)
        for place, (name, mean) in enumerate(zip(names, means, strict=True)):
            left = place < half
            # A line of its own for each: the names may be long.
            y = CD_HEIGHT + bars + CD_LINE * (place if left else len(order) - 1 - (place - half))
            edge = low if left else high
            axes.plot((mean, mean, edge), (60, y, y), color=colours["chance"], linewidth=1)
            side: dict[str, Any] = {"ha": "left" if left else "right", "textcoords": "offset points"}
            axes.annotate(f"{name} ({mean:.2f})", (edge, y), (0, 3), **side, **text)
        for number, clique in enumerate(cliques):
            y = 72 + 8 * number
            axes.plot((means[clique[0]], means[clique[-1]]), (y, y), color=colours["auroc"], linewidth=3)

    caption = (
        f"Mean rank by AUROC over {ranks.blocks} {ranking.blocks}; 1 is the best. Configurations joined by a bar are "
        f"not told apart (Nemenyi, 5 %). Friedman's p = {ranks.p:.2g}."
    )
    told = "; ".join(f"{name}: {mean:.2f}" for name, mean in zip(names, means, strict=True))
    return Drawn("ranks", "Critical differences", caption, f"Mean ranks: {told}.", float(height), draw)


def page_figure(drawn: Drawn) -> PageFigure:
    """Return a figure as the page shows it; needs `melfed.server.report.charts.settings`."""
    chart = Chart(drawn.height)
    drawn.draw(chart.axes[0], COLOURS)
    return PageFigure(drawn.title, chart.svg(drawn.description), drawn.caption, list(drawn.keys))
