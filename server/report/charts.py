"""Charts as inline SVG: drawn by matplotlib, coloured by the page's style sheet.

A chart holds no colours of its own but the names of the style sheet's, so that it follows the reader's light or dark
scheme, and its words are text in the page's font, which prints, is searched and is read aloud. matplotlib is loaded
with the first chart and draws under settings of its own: the user's are neither read nor changed.
"""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

WIDTH = 460  # pixels, which are points here; the browser scales them to the column
LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 58, 22, 16, 48, 32
PLOT = WIDTH - LEFT - RIGHT
POINTS = 72  # of an inch

_NAMES = ("ink", "soft", "card", "grid", "chance", "auroc", "auprc", "melanoma", "other")
COLOURS = {name: f"#{number:06x}" for number, name in enumerate(_NAMES, start=1)}
"""What stands for each colour of the style sheet while matplotlib draws."""

_SETTINGS = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLOURS["chance"],
    "axes.facecolor": "none",
    "axes.formatter.limits": (-4, 7),
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": COLOURS["ink"],
    "axes.labelsize": 13,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 13,
    "grid.color": COLOURS["grid"],
    "lines.linewidth": 2.2,
    "lines.scale_dashes": False,
    "svg.fonttype": "none",
    "text.color": COLOURS["soft"],
    "xtick.color": COLOURS["soft"],
    "xtick.major.pad": 7,
    "xtick.major.size": 0,
    "ytick.color": COLOURS["soft"],
    "ytick.major.pad": 6,
    "ytick.major.size": 0,
}
_DROPPED = {"metadata", "style", "clipPath"}  # a date, rules for the whole page, and what no mark needs


@contextmanager
def settings() -> Iterator[None]:
    """Load matplotlib and draw with the report's settings; afterwards those of before hold again."""
    log = logging.getLogger("matplotlib")
    level = log.level
    # That the list of fonts is being made is nothing that a reader could act on.
    log.setLevel(logging.ERROR)
    try:
        with _no_home():
            from matplotlib import font_manager, style  # noqa: F401 (makes the list of fonts)
    finally:
        log.setLevel(level)
    with style.context(["default", _SETTINGS]):
        yield


@contextmanager
def _no_home() -> Iterator[None]:
    """Let matplotlib, where it is not loaded yet, keep its list of fonts elsewhere: nothing is written to a home."""
    if "matplotlib" in sys.modules or os.environ.get("MPLCONFIGDIR"):
        yield
        return
    with TemporaryDirectory(prefix="melfed-fonts-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


class Chart:
    """Axes of one width, one above the other. Needs `settings`.

    Args:
        heights: of each axes, from the top, pixels.
    """

    def __init__(self, *heights: float) -> None:
        from matplotlib.figure import Figure

        total = TOP + sum(heights) + BETWEEN * (len(heights) - 1) + BOTTOM
        self._figure = Figure((WIDTH / POINTS, total / POINTS), dpi=POINTS, frameon=False)
        self._told: dict[str, tuple[str, str]] = {}
        self.axes: list[Axes] = []
        top = total - TOP
        for height in heights:
            box = (LEFT / WIDTH, (top - height) / total, PLOT / WIDTH, height / total)
            axes = self._figure.add_axes(box)
            axes.yaxis.set_label_coords((18 - LEFT) / PLOT, 0.5)
            axes.xaxis.set_label_coords(0.5, -27 / height)
            self.axes.append(axes)
            top -= height + BETWEEN

    def tell(self, mark: "Artist", tip: str, words: str = "") -> None:
        """Let a mark tell `tip` to the pointer; a text shows `words` instead of its own."""
        key = f"told-{len(self._told)}"
        mark.set_gid(key)
        self._told[key] = tip, words

    def write(
        self,
        axes: "Axes",
        at: tuple[float, float],
        words: str,
        tip: str = "",
        *,
        move: tuple[float, float] = (0, 5),
        **style: Any,
    ) -> None:
        """Write words, `move` pixels right of and above a value."""
        style = {"fontsize": 12, "annotation_clip": False} | style
        # matplotlib never sees the words: it would take some for formulas, and miss signs in its own fonts.
        self.tell(axes.annotate("x", at, move, textcoords="offset points", **style), tip, words)

    def svg(self, description: str) -> Markup:
        """Return the chart as an element; a screen reader reads `description` instead of it."""
        from matplotlib import rc_context

        drawn = StringIO()
        with rc_context({"svg.hashsalt": description}):  # ids that no other chart of the page has
            self._figure.savefig(drawn, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(drawn.getvalue())  # noqa: S314 (matplotlib has just written it)
        _clean(root)
        for group in root.iter("g"):
            self._name(group)
        root.attrib = {
            "viewBox": root.attrib["viewBox"],
            "role": "img",
            "aria-label": description,
            "class": "chart",
        }
        return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 (text in it is escaped)

    def _name(self, group: ElementTree.Element) -> None:
        """Turn a group's id into what it tells, or into its class; matplotlib's own, which end in numbers, go."""
        name = group.attrib.pop("id", "1")
        tip, words = self._told.get(name, ("", ""))
        text = group.find("text")
        if words and text is not None:
            text.text, group = words, text
        if tip:
            ElementTree.SubElement(group, "title").text = tip
        elif not name[-1].isdigit():
            group.set("class", name)


def _clean(root: ElementTree.Element) -> None:
    """Leave of matplotlib's SVG what a page needs, without namespaces, colours by their names."""
    for node in root.iter():
        for child in [child for child in node if _local(child.tag) in _DROPPED]:
            node.remove(child)
        node.tag = _local(node.tag)
        node.attrib = {_local(key): value for key, value in node.attrib.items() if key != "clip-path"}
        if "style" in node.attrib:
            node.set("style", re.sub("#0000(0[1-9])", _variable, node.attrib["style"]))
        if "d" in node.attrib:
            node.set("d", " ".join(node.attrib["d"].split()))
        node.tail, node.text = None, (node.text or "").strip() or None


def _variable(found: re.Match[str]) -> str:
    return f"var(--{_NAMES[int(found[1]) - 1]})"


def _local(name: str) -> str:
    return name.rpartition("}")[2]
