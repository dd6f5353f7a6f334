"""A run's curves as a matplotlib figure, for notebooks and papers; the report's own are in `melfed.server.report`."""

from io import BytesIO
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from melfed.common.metrics.intervals import Interval
from melfed.common.metrics.noisy import pr_of, roc_of
from melfed.common.metrics.noisy_histogram import Histogram, pooled
from melfed.server.report.page import scores_by_clinic
from melfed.server.report.words import prevalence
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RunSummary

INCHES: Final = (12.0, 3.8)
CHANCE: Final[dict[str, Any]] = {"color": "0.6", "linestyle": "--", "linewidth": 1}
BAND: Final = 0.2


class _Shown(Figure):
    """A figure that a notebook shows as the value of a cell, without pyplot and its list of open figures."""

    def _repr_png_(self) -> bytes:
        drawn = BytesIO()
        self.savefig(drawn, format="png", dpi=100)
        return drawn.getvalue()


def figure(summary: RunSummary, folder: RunFolder) -> Figure:
    """Return training by round, ROC, and precision against recall, side by side; shaded: 95 % intervals.

    Args:
        summary: of the run.
        folder: with the clinics' test histograms, of which the curves are the pooled ones.

    Raises:
        RunError: a histogram is damaged.
    """
    drawn = _Shown(INCHES, layout="constrained")
    training, roc, precision = drawn.subplots(1, 3)
    _training(training, summary)
    scores = pooled(scores_by_clinic(folder).values())
    _roc(roc, scores, summary)
    _precision_recall(precision, scores, summary)
    return drawn


def _training(axes: Axes, summary: RunSummary) -> None:
    axes.set(title="Training", xlabel="round", ylabel="AUROC of the validation parts", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.axhline(0.5, **CHANCE)
    validated = [(row.round, row.validation.auroc) for row in summary.rounds if row.validation is not None]
    known = [(x, i.value, i.low, i.high) for x, i in validated if None not in (i.value, i.low, i.high)]
    if known:
        x, value, low, high = (list(column) for column in zip(*known, strict=True))
        axes.plot(x, value, "o-", color="C0", markersize=3, label="AUROC")
        axes.fill_between(x, low, high, color="C0", alpha=BAND, linewidth=0)
    losses = [(row.round, row.train_loss) for row in summary.rounds if row.train_loss is not None]
    if losses:
        beside = axes.twinx()
        beside.plot(*zip(*losses, strict=True), color="C1", label="loss")
        beside.set_ylabel("training loss", color="C1")
        beside.set_ylim(0, 1.1 * max(loss for _, loss in losses))


def _roc(axes: Axes, scores: Histogram, summary: RunSummary) -> None:
    curve = roc_of(scores)
    axes.set(title="ROC", xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1))
    axes.plot((0, 1), (0, 1), **CHANCE)
    if curve.sensitivity.size:
        axes.plot(curve.false_positive_rate, curve.sensitivity, color="C0", label=_label("AUROC", summary.test.auroc))
        axes.fill_between(curve.false_positive_rate, curve.low, curve.high, color="C0", alpha=BAND, linewidth=0)
        axes.legend(loc="lower right")


def _precision_recall(axes: Axes, scores: Histogram, summary: RunSummary) -> None:
    curve, share = pr_of(scores), prevalence(summary.test)
    axes.set(title="Precision and recall", xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    if share is not None:
        axes.axhline(share, **CHANCE)
    found = curve.recall > 0  # at none found, precision is anything
    if found.any():
        label = _label("AUPRC", summary.test.auprc)
        axes.plot(curve.recall[found], curve.precision[found], color="C0", label=label)
        axes.fill_between(curve.recall[found], curve.low[found], curve.high[found], color="C0", alpha=BAND, linewidth=0)
        axes.legend(loc="upper right")


def _label(name: str, interval: Interval) -> str:
    if interval.value is None or interval.low is None:
        return f"{name} undefined"
    return f"{name} {interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
