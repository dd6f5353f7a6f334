"""The report's decision curve: what calling from a threshold on is worth, and what it is not."""

import numpy as np

from melfed.common.metrics.exact import EvaluationMetrics
from melfed.common.metrics.net_benefit import decision_curve
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.server.report.charts import COLOURS, PLOT, Chart
from melfed.server.report.figures import CHANCE, Figure
from melfed.server.report.words import hint, plural

TITLE = "Decision curve"
CAPTION = (
    "Net benefit of calling melanoma from a threshold probability on: melanomas found, less false alarms at the rate "
    "that the threshold states (at 10 %, nine false alarms weigh as much as one melanoma), per 100 {units}; shaded: "
    "95 % interval. Above both other lines the model is of use at that threshold on these test parts, if its scores "
    "are probabilities. Nobody has acted on a score: no treatment and no patient's outcome is in it."
)


def decision_figure(h: Histogram, metrics: EvaluationMetrics, unit: str | None = None) -> Figure:
    """Return the pooled decision curve with its band, and those of calling all or none; `unit` as of `noised_unit`."""
    from matplotlib.ticker import MaxNLocator

    curve = decision_curve(h)
    if not curve.threshold.size:
        return Figure(TITLE, None, hint(metrics, unit=unit) or "no threshold lies among the scores")
    percent, model, everything = 100 * curve.threshold, 100 * curve.model, 100 * curve.everything
    top = float(max(100 * curve.high.max(), everything.max(), 0.1)) * 1.08
    low = -0.25 * top
    chart = Chart(PLOT - 100)
    axes = chart.axes[0]
    axes.set(xlim=(0, percent[-1]), ylim=(low, top), xlabel="Threshold probability, %", ylabel="Net benefit")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.axhline(0, **CHANCE)
    shown = np.maximum(everything, low)
    reached = int(np.argmin(shown > low)) + 1 if (shown <= low).any() else len(shown)
    axes.plot(percent[:reached], shown[:reached], color=COLOURS["other"], linestyle=(0, (4, 3)))
    lowest, highest = (np.clip(100 * limit, low, top) for limit in (curve.low, curve.high))
    axes.fill_between(percent, lowest, highest, facecolor=COLOURS["auroc"], alpha=0.17, linewidth=0)
    axes.plot(percent, np.maximum(model, low), color=COLOURS["auroc"], gid="curve")
    said = ", ".join(f"at {percent[i]:.0f} %: {model[i]:.2f}" for i in _told(len(percent)))
    keys = [("auroc", "the model"), ("other dashed", "all called melanoma"), ("chance dashed", "none called")]
    caption = CAPTION.format(units=plural(unit or "image"))
    return Figure(
        TITLE, chart.svg(f"Decision curve of all clinics' test parts pooled. Net benefit {said}."), caption, keys
    )


def _told(points: int) -> list[int]:
    return sorted({min(points - 1, place) for place in (4, 9, 19)})
