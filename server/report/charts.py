"""Drawing primitives of the report's figures: axes and marks as inline SVG, coloured by the page's style sheet.

Inline SVG rather than a plotting library's script: a figure is a few kilobytes instead of five megabytes, is drawn with
scripts switched off, prints as vectors, follows the reader's light or dark scheme, and a screen reader finds its text.
Coordinates are pixels of the SVG's own box, which the browser scales to the column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from melfed.server.report.markup import Markup, element, join, number

WIDTH = 460
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 10, 46

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One axis: its range, where it has ticks and how they are labelled, and what it shows."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str

    def place(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high end; outside values are moved to the end."""
        share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))


def unit_axis(label: str, low: float = 0.0) -> Axis:
    """Return an axis of a proportion, from `low` to 1."""
    return nice_axis(low, 1.0, label)


def nice_axis(low: float, high: float, label: str, *, whole: bool = False) -> Axis:
    """Return an axis over [low, high] with about five ticks at multiples of 1, 2 or 5 times a power of ten.

    Args:
        low: left or lower end.
        high: the other end; equal ends are moved apart.
        label: what the axis shows.
        whole: ticks at whole numbers alone.
    """
    if high <= low:
        low, high = low - 0.5, high + 0.5
    step = _step((high - low) / 5, whole)
    digits = next((d for d in range(12) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 12)
    first = -int(-low / step + 1e-9) if low < 0 else int(low / step + 1 - 1e-9)
    ticks = []
    for multiple in count(first):
        value = multiple * step
        if value > high + step * 1e-9:
            break
        ticks.append((value, f"{value:.{digits}f}"))
    return Axis(low, high, tuple(ticks), label)


def _step(rough: float, whole: bool) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power = 1.0
    while power > rough:
        power /= 10
    while power * 10 <= rough:
        power *= 10
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return max(1.0, step) if whole else step


@dataclass
class Chart:
    """A rectangle with two axes; marks are added in the order in which they are painted."""

    x: Axis
    y: Axis
    top: float = TOP
    height: float = 300
    marks: list[Markup] = field(default_factory=list)

    @property
    def bottom(self) -> float:
        """Lower edge of the plot area."""
        return self.top + self.height

    def at(self, x: float, y: float) -> Point:
        """Return the pixel of a value."""
        return (
            LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT),
            self.bottom - self.y.place(y) * self.height,
        )

    def line(self, points: Iterable[Point], style: str) -> None:
        """Draw a line through values."""
        pixels = " ".join(_pair(self.at(*point)) for point in points)
        self.marks.append(element("polyline", points=pixels, class_=f"line {style}"))

    def band(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], style: str) -> None:
        """Fill the area between two lines."""
        outline = [*zip(xs, lows, strict=True), *reversed(list(zip(xs, highs, strict=True)))]
        pixels = " ".join(_pair(self.at(*point)) for point in outline)
        self.marks.append(element("polygon", points=pixels, class_=f"band {style}"))

    def bar(self, left: float, right: float, height: float, style: str, tip: str) -> None:
        """Draw a bar from the axis up."""
        (x0, y0), (x1, y1) = self.at(left, self.y.low), self.at(right, height)
        box = {"x": x0, "y": y1, "width": max(0.5, x1 - x0 - 1), "height": y0 - y1}
        self.marks.append(element("rect", element("title", tip), class_=f"bar {style}", **box))

    def range(self, x: float, low: float, high: float, style: str) -> None:
        """Draw a vertical interval."""
        (x0, y0), (_, y1) = self.at(x, low), self.at(x, high)
        self.marks.append(element("line", x1=x0, y1=y0, x2=x0, y2=y1, class_=f"line {style}"))

    def dot(self, x: float, y: float, style: str, tip: str) -> None:
        """Draw a point that tells its values to the pointer."""
        px, py = self.at(x, y)
        self.marks.append(element("circle", element("title", tip), cx=px, cy=py, r=4, class_=f"dot {style}"))

    def text(self, x: float, y: float, words: str, anchor: str = "start", *, right: float = 0, up: float = 5) -> None:
        """Write a few words, `right` and `up` pixels from a value."""
        px, py = self.at(x, y)
        self.marks.append(element("text", words, x=px + right, y=py - up, text_anchor=anchor, class_="note"))

    def drawn(self) -> Markup:
        """Return grid, axes and marks."""
        left, right = LEFT, WIDTH - RIGHT
        parts = []
        for value, words in self.y.ticks:
            _, y = self.at(self.x.low, value)
            parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            parts.append(element("text", words, x=left - 7, y=y + 4.5, text_anchor="end"))
        for value, words in self.x.ticks:
            x, _ = self.at(value, self.y.low)
            parts.append(element("line", x1=x, x2=x, y1=self.top, y2=self.bottom, class_="grid"))
            parts.append(element("text", words, x=x, y=self.bottom + 18, text_anchor="middle"))
        frame = element("line", x1=left, x2=right, y1=self.bottom, y2=self.bottom, class_="axis")
        return join([*parts, frame, *self.marks, *self._labels()])

    def _labels(self) -> list[Markup]:
        across, middle = (LEFT + WIDTH - RIGHT) / 2, (self.top + self.bottom) / 2
        turned = f"rotate(-90 14 {number(middle)})"
        return [
            element("text", self.x.label, x=across, y=self.bottom + 38, text_anchor="middle", class_="label"),
            element("text", self.y.label, x=14, y=middle, text_anchor="middle", transform=turned, class_="label"),
        ]


def drawing(*charts: Chart, description: str) -> Markup:
    """Return an SVG of charts that stand one above the other; a screen reader reads `description` instead of it."""
    box = f"0 0 {WIDTH} {number(charts[-1].bottom + BOTTOM)}"
    drawn = [chart.drawn() for chart in charts]
    return element("svg", *drawn, viewBox=box, role="img", aria_label=description, class_="chart")


def _pair(point: Point) -> str:
    return f"{number(point[0])},{number(point[1])}"
