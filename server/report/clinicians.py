"""The model's AUROC beside what is published of doctors', so that nobody reads a claim about care into it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from melfed.common.metrics.exact import EvaluationMetrics
from melfed.server.report.charts import COLOURS, Chart
from melfed.server.report.figures import CHANCE, DOT, Figure
from melfed.server.report.words import hint, spoken

TITLE = "Beside published figures of doctors"
LINE = 44  # pixels
LOWEST = 0.5


class Readers(NamedTuple):
    """Doctors of one kind: AUROC, and the ± that it is published with."""

    name: str
    auroc: float
    spread: float


READERS: Final[Sequence[Readers]] = (
    Readers("General practitioners, published", 0.83, 0.03),
    Readers("Dermatologists, published", 0.91, 0.02),
)
CAPTION: Final = (
    "No comparison of this model with doctors: nobody showed them these images. The published figures (0.83 ± 0.03 and "
    "0.91 ± 0.02) are of other patients, other pictures and other questions, and doctors know more of a patient than a "
    "picture. Overlap does not mean as good, a higher value does not mean better, and neither says what the model "
    "would do in care, where it has not been tried."
)


def clinicians_figure(metrics: EvaluationMetrics, synthetic: bool, unit: str | None = None) -> Figure:
    """Return the pooled AUROC beside published ones; none of synthetic images; `unit` as of `noised_unit`."""
    own = metrics.auroc
    if synthetic:
        return Figure(TITLE, None, "synthetic images have nothing to do with what doctors see")
    if own.value is None or own.low is None or own.high is None:
        return Figure(TITLE, None, hint(metrics, unit=unit) or "the AUROC is undefined")
    height = LINE * (len(READERS) + 1) + 6
    chart = Chart(height)
    axes = chart.axes[0]
    axes.set(xlim=(min(LOWEST, own.low), 1), ylim=(height, 0), yticks=(), xlabel="AUROC (0.5 is chance)")
    axes.axvline(0.5, **CHANCE)
    rows = [
        ("This model, on these test parts", "auroc", own.value, own.low, own.high, spoken(own)),
        *(
            (r.name, "other", r.auroc, r.auroc - r.spread, r.auroc + r.spread, f"{r.auroc} ± {r.spread}")
            for r in READERS
        ),
    ]
    for place, (name, colour, value, low, high, words) in enumerate(rows):
        y = LINE * place + 18
        chart.write(axes, (axes.get_xlim()[0], y), name, words, move=(0, 0), color=COLOURS["ink"])
        axes.plot((low, high), (y + 12, y + 12), color=COLOURS[colour])
        axes.plot(value, y + 12, "o" if place == 0 else "D", color=COLOURS[colour], **DOT)
    said = "; ".join(f"{name}: {words}" for name, *_, words in rows)
    return Figure(TITLE, chart.svg(f"{said}. These are of different patients and pictures."), CAPTION)
