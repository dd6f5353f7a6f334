"""The report's figures: each takes results and returns what its chart shows, or why it is not drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from melfed.common.metrics.curves import calibration_curve
from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.noisy import densities, pr_of, roc_of
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram
from melfed.server.report.charts import COLOURS, PLOT, Chart
from melfed.server.report.words import count, hint, limits_of, plural, prevalence, spoken, value_of
from melfed.server.runs.summary import ClinicSummary, RoundSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CALIBRATION = "Calibration of the probabilities"
FOREST_CLINICS = 40
FOREST_NAME = 20  # characters
FOREST_LINE = 40  # pixels
DOTTED_ROUNDS = 40
BARS = 96  # of the score figure, at most; half as many at least, as they are a power of two wide
FAR = 12.0  # logits beyond it are no probabilities that anybody reads

LEAST_SHARE = 1e-4  # of a class: smaller bars of a density, which has no end, are not drawn

Key = tuple[str, str]
IntArray = npt.NDArray[np.intp]
Shares = dict[str, FloatArray]

UNIT = (0.0, 1.0)
CHANCE: dict[str, Any] = {"color": COLOURS["chance"], "linewidth": 1.5, "linestyle": (0, (5, 4))}
DOT: dict[str, Any] = {"markersize": 8, "markeredgecolor": COLOURS["card"], "markeredgewidth": 1.2, "linestyle": ""}


@dataclass(frozen=True)
class ScoreBins:
    """Score bins from `low` to `high`, logits, and the counts of each class in them, by style."""

    low: FloatArray
    high: FloatArray
    counts: dict[str, FloatArray]


@dataclass(frozen=True)
class Figure:
    """What the page shows as a figure.

    Args:
        title: heading.
        image: the SVG; none of a figure that cannot be drawn.
        caption: what to see in it, or why it is not drawn.
        keys: legend: style and words of each kind of mark.
    """

    title: str
    image: Markup | None
    caption: str
    keys: Sequence[Key] = ()


def _band(colour: str, opacity: float = 0.17) -> dict[str, Any]:
    return {"facecolor": COLOURS[colour], "alpha": opacity, "linewidth": 0}


@dataclass(frozen=True)
class _Row:
    """One line of the forest plot."""

    name: str
    metrics: EvaluationMetrics
    colour: str
    marker: str = "D"


def forest(clinics: Sequence[ClinicSummary], pooled: EvaluationMetrics, unit: str | None = None) -> Figure:
    """Return the AUROC of each clinic and of all pooled, as points with intervals; `unit` as of `noised_unit`."""
    largest = {clinic.name for clinic in sorted(clinics, key=lambda clinic: -clinic.test.images)[:FOREST_CLINICS]}
    rows = [row for clinic in clinics if clinic.name in largest for row in _clinic_rows(clinic)]
    rows.append(_Row("All pooled", pooled, "ink"))
    lows = [row.metrics.auroc.low for row in rows if row.metrics.auroc.low is not None]
    height = FOREST_LINE * len(rows) + 8
    chart = Chart(height)
    axes = chart.axes[0]
    left = 0.0 if min(lows, default=0.5) < 0.3 else 0.3
    axes.set(xlim=(left, 1), ylim=(height, 0), yticks=(), xlabel="AUROC on the test part (0.5 is chance)")
    axes.axvline(0.5, **CHANCE)
    for index, row in enumerate(rows):
        _forest_line(chart, FOREST_LINE * index + 18, row, unit)
    caption = "A point is a clinic's AUROC, the line its 95 % interval; the dashed line is chance."
    if len(clinics) > FOREST_CLINICS:
        most = "test images" if unit is None else f"{plural(unit)} in test, by noisy counts,"
        caption += f" The {FOREST_CLINICS} clinics with most {most} are shown; all are in the table."
    if len(rows) > len(largest) + 1:
        caption += " “Everywhere” is that clinic's model on the test parts of all clinics."
    words = "; ".join(f"{row.name}: {spoken(row.metrics.auroc)}" for row in rows)
    return Figure("AUROC by clinic", chart.svg(f"Forest plot of AUROC. {words}."), caption)


def _clinic_rows(clinic: ClinicSummary) -> Iterator[_Row]:
    yield _Row(clinic.name, clinic.test, "auroc", "o")
    if clinic.everywhere:
        yield _Row("↳ everywhere", clinic.everywhere, "auprc")


def _forest_line(chart: Chart, y: float, row: _Row, unit: str | None) -> None:
    """Draw name and value at height `y`, and the interval below them."""
    axes = chart.axes[0]
    ends = axes.get_xlim()
    interval, limits = row.metrics.auroc, limits_of(row.metrics.auroc)
    value = f"{value_of(interval)} ({limits})" if limits else "undefined"
    short = row.name if len(row.name) <= FOREST_NAME else f"{row.name[: FOREST_NAME - 1]}…"
    ink = {"color": COLOURS["ink"], "fontsize": "13"}
    chart.write(axes, (ends[0], y), short, row.name, move=(0, 0), weight="bold", **ink)
    chart.write(axes, (ends[1], y), value, move=(0, 0), ha="right", **ink)
    if interval.value is None or interval.low is None or interval.high is None:
        chart.write(axes, (ends[1], y), hint(row.metrics, unit=unit) or "", move=(0, -16), ha="right")
        return
    axes.plot((interval.low, interval.high), (y + 11, y + 11), color=COLOURS[row.colour])
    axes.plot(interval.value, y + 11, row.marker, color=COLOURS[row.colour], **DOT)


def loss_figure(rounds: Sequence[RoundSummary]) -> Figure:
    """Return the training loss by round; at least one round has one."""
    rows = [row for row in rounds if row.train_loss is not None]
    losses = [row.train_loss or 0.0 for row in rows]
    chart = _round_chart(rows, "Training loss", top=max([*losses, 1e-9]) * 1.08)
    axes = chart.axes[0]
    axes.plot([row.round for row in rows], losses, color=COLOURS["auroc"])
    for row, loss in zip(rows, losses, strict=True) if len(rows) <= DOTTED_ROUNDS else ():
        _dot(chart, axes, (row.round, loss), "auroc", f"Round {row.round}: loss {loss:.4f}")
    words = (
        f"Training loss by round: {losses[0]:.3f} in round {rows[0].round}, {losses[-1]:.3f} in round {rows[-1].round}."
    )
    caption = "Mean loss over the training images of each round, while the model was learning from them."
    return Figure("Training loss", chart.svg(words), caption)


def validation_figure(rounds: Sequence[RoundSummary]) -> Figure:
    """Return validation AUROC and AUPRC by round, with intervals."""
    rows = [row for row in rounds if row.validation is not None]
    if not any(row.validation.auroc.value is not None for row in rows if row.validation):
        return Figure("Validation", None, "no round has a validation part with melanomas and other images")
    chart = _round_chart(rows, "Validation part, pooled", top=1)
    said = []
    for name, dashes in (("auprc", (0, (8, 3))), ("auroc", "solid")):
        series = [(row.round, getattr(row.validation, name)) for row in rows]
        _series(chart, series, name, dashes)
        said.append(f"{name.upper()} {spoken(series[-1][1])}")
    words = f"Validation by round; after round {rows[-1].round}: {', '.join(said)}."
    caption = "Each round's model on the clinics' validation parts, which it did not learn from; shaded: 95 % interval."
    return Figure("Validation", chart.svg(words), caption, [("auroc", "AUROC"), ("auprc dashed", "AUPRC")])


def _round_chart(rows: Sequence[RoundSummary], label: str, *, top: float) -> Chart:
    """Return a chart over rounds, from 0 to `top`."""
    from matplotlib.ticker import MaxNLocator

    chart = Chart(250)
    first, last = rows[0].round, rows[-1].round
    around = 0.5 if first == last else 0
    chart.axes[0].set(xlim=(first - around, last + around), ylim=(0, top), xlabel="Round", ylabel=label)
    chart.axes[0].xaxis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    return chart


def _dot(chart: Chart, axes: "Axes", at: tuple[float, float], colour: str, tip: str) -> None:
    """Draw a point that tells its values to the pointer."""
    (dot,) = axes.plot(*at, "o", color=COLOURS[colour], clip_on=False, zorder=3, **DOT)
    chart.tell(dot, tip)


def _series(chart: Chart, series: Sequence[tuple[int, Interval]], name: str, dashes: object) -> None:
    """Draw values with band; a round where the value is undefined leaves a gap."""
    axes, colour = chart.axes[0], COLOURS[name]
    for defined, run in groupby(series, key=lambda item: item[1].value is not None):
        part = [(r, i.value or 0.0, i.low or 0.0, i.high or 0.0) for r, i in run]
        if not defined:
            continue
        xs, values, lows, highs = (list(column) for column in zip(*part, strict=True))
        if len(part) == 1:
            axes.vlines(xs, lows, highs, color=colour, linestyle=dashes)
        axes.fill_between(xs, lows, highs, **_band(name))
        axes.plot(xs, values, color=colour, linestyle=dashes)
        for x, value, low, high in part if len(series) <= DOTTED_ROUNDS else ():
            _dot(chart, axes, (x, value), name, f"Round {x}: {name.upper()} {value:.3f} ({low:.3f} to {high:.3f})")


def roc_figure(h: Histogram, metrics: EvaluationMetrics, unit: str | None = None) -> Figure:
    """Return the pooled ROC curve with its band and the line of chance."""
    curve = roc_of(h)
    if not curve.sensitivity.size:
        return Figure("ROC curve", None, hint(metrics, unit=unit) or "one class only")
    chart = Chart(PLOT)
    axes = chart.axes[0]
    axes.set(xlim=UNIT, ylim=UNIT, xlabel="1 − specificity", ylabel="Sensitivity")
    axes.fill_between(curve.false_positive_rate, curve.low, curve.high, **_band("auroc"))
    axes.plot(UNIT, UNIT, **CHANCE)
    chart.write(axes, (0.7, 0.7), "chance", move=(-4, 4), ha="right")
    axes.plot(curve.false_positive_rate, curve.sensitivity, color=COLOURS["auroc"], gid="curve")
    for specificity, at in ((90, metrics.sensitivity_at_90_specificity), (95, metrics.sensitivity_at_95_specificity)):
        if at.value is not None:
            tip = f"At {specificity} % specificity: sensitivity {spoken(at)}"
            _dot(chart, axes, (1 - specificity / 100, at.value), "auroc", tip)
    words = f"ROC curve of all clinics' test parts pooled. AUROC {spoken(metrics.auroc)}."
    caption = (
        f"AUROC {spoken(metrics.auroc)}. Points: sensitivity at 95 % and 90 % specificity. Shaded: 95 % interval of "
        "the sensitivity at each threshold."
    )
    return Figure("ROC curve", chart.svg(words), caption)


def pr_figure(h: Histogram, metrics: EvaluationMetrics, unit: str | None = None) -> Figure:
    """Return the pooled precision-recall curve with its band and the share of melanomas."""
    curve, share = pr_of(h), prevalence(metrics)
    if not curve.recall.size or share is None:
        return Figure("Precision and recall", None, hint(metrics, unit=unit) or "one class only")
    chart = Chart(PLOT)
    axes = chart.axes[0]
    axes.set(xlim=UNIT, ylim=UNIT, xlabel="Recall (sensitivity)", ylabel="Precision")
    recall, found = one_a_recall(curve.recall, metrics.melanomas)
    axes.fill_between(recall, curve.low[found], curve.high[found], **_band("auprc"))
    axes.plot(UNIT, (share, share), **CHANCE)
    chart.write(axes, (1, share), f"chance: {share:.3f}", move=(0, -16 if share > 0.1 else 6), ha="right")
    axes.plot(recall, curve.precision[found], color=COLOURS["auprc"], gid="curve")
    words = (
        f"Precision-recall curve of all clinics' test parts pooled. AUPRC {spoken(metrics.auprc)}, chance {share:.3f}."
    )
    caption = (
        f"AUPRC {spoken(metrics.auprc)}. The dashed line is guessing: the share of melanomas. Shaded: 95 % interval of "
        "the precision at each threshold."
    )
    return Figure("Precision and recall", chart.svg(words), caption)


def one_a_recall(recall: FloatArray, melanomas: int) -> tuple[FloatArray, IntArray]:
    """Return each recall that is drawn, rising, and the index of the highest threshold that reaches it.

    There is one for each number of melanomas found, which is what average precision is a mean over. Below one melanoma
    found, precision is anything, and as long as no other is found it only falls: either would be a stroke.

    Args:
        recall: at thresholds from the highest down, shape (n,).
        melanomas: all there are.
    """
    counts, first = np.unique(np.floor(recall * melanomas + 1e-6), return_index=True)
    first = first[counts >= 1]
    return recall[first], first


def calibration_figure(h: ScoreHistogram, metrics: EvaluationMetrics) -> Figure:
    """Return observed against predicted melanoma rate, and below how many images are in each bin."""
    if metrics.brier is None or metrics.ece is None:
        return Figure(CALIBRATION, None, hint(metrics) or "no test image was evaluated")
    curve = calibration_curve(h)
    chart = Chart(PLOT - 100, 70)
    axes, strip = chart.axes
    axes.set(xlim=UNIT, ylim=UNIT, ylabel="Observed melanoma rate")
    axes.plot(UNIT, UNIT, **CHANCE)
    axes.vlines(curve.mean_predicted, curve.low, curve.high, color=COLOURS["auroc"])
    axes.plot(curve.mean_predicted, curve.observed, color=COLOURS["auroc"], linewidth=1)
    for predicted, observed, low, high, images in zip(
        curve.mean_predicted, curve.observed, curve.low, curve.high, curve.counts, strict=True
    ):
        tip = f"Predicted {predicted:.3f}, observed {observed:.3f} ({low:.3f} to {high:.3f}), {images:,.0f} images"
        _dot(chart, axes, (predicted, observed), "auroc", tip)
    most, bins = int(curve.counts.max()), len(h.calibration_counts)
    strip.set(xlim=UNIT, ylim=(0, most * 1.1), xlabel="Predicted probability of melanoma", ylabel="Images")
    strip.set_yticks(())
    # Inside: beside the axis a large number would leave the card.
    chart.write(strip, (1, most * 1.1), f"highest bar: {count(most)}", move=(0, -12), ha="right")
    for index in np.flatnonzero(h.calibration_counts):
        images = int(h.calibration_counts[index])
        (bar,) = strip.bar(index / bins, images, 0.94 / bins, align="edge", color=COLOURS["other"])
        chart.tell(bar, f"{index / bins:.2f} to {(index + 1) / bins:.2f}: {count(images)} images")
    scores = f"Brier score {metrics.brier:.3f}, expected calibration error {metrics.ece:.3f}"
    caption = (
        "On the dashed line, of 100 images with a predicted probability of 30 %, 30 are melanomas; below it the model "
        "says melanoma too often. Lines: 95 % interval; bars: images in each bin."
    )
    return Figure(CALIBRATION, chart.svg(f"Calibration curve of all clinics' test images pooled. {scores}."), caption)


def scores_figure(h: Histogram, metrics: EvaluationMetrics, unit: str | None = None) -> Figure:
    """Return how scores are spread in each class, on a logit axis."""
    found = _exact_bins(h) if isinstance(h, ScoreHistogram) else _fitted_bins(h)
    edges, shares = score_bars(found) if found else (np.zeros(0), {})
    if not shares:
        return Figure("Scores by class", None, hint(metrics, unit=unit) or "no test image was evaluated")
    low, high = float(edges[0]), float(edges[-1])
    chart = Chart(PLOT - 54)
    axes = chart.axes[0]
    top = 108 * max(float(values.max()) for values in shares.values())
    axes.set(xlim=(low, high), ylim=(0, top), ylabel="Share of the class, %")
    inside = [p for p in (1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999) if low <= _logit(p) <= high]
    # Where scores lie close together, or far out, probabilities tell nothing.
    if len(inside) < 3 or max(-low, high) > FAR:
        axes.set_xlabel("Logit of the predicted probability")
    else:
        axes.set_xlabel("Predicted probability (logit scale)")
        axes.set_xticks([_logit(p) for p in inside], [f"{p:g}" for p in inside])
    for style, values in shares.items():
        axes.stairs(100 * values, edges, fill=True, **_band(style, 0.28))
        axes.stairs(100 * values, edges, color=COLOURS[style], linewidth=2.2)
    if low < 0 < high:
        axes.axvline(0, **CHANCE)
        # On the side where there is room: at the right end it would leave the card.
        right = low + high > 0
        chart.write(axes, (0, top), "threshold 0.5", move=(6 if right else -6, -12), ha="left" if right else "right")
    caption = f"{_numbers(metrics, unit)}; the less the two overlap, the better the model tells them apart."
    names = {"melanoma": "melanomas", "other": "other images"}
    keys = [(style, name) for style, name in names.items() if style in shares]
    return Figure("Scores by class", chart.svg(f"Histogram of the {caption[0].lower()}{caption[1:]}"), caption, keys)


def _numbers(metrics: EvaluationMetrics, unit: str | None) -> str:
    melanomas, others = count(metrics.melanomas), count(metrics.images - metrics.melanomas)
    if unit is None:
        return f"Scores of {melanomas} melanomas and {others} other test images"
    return f"Densities of the scores of about {melanomas} {plural(unit)} with a melanoma and {others} without"


def _exact_bins(h: ScoreHistogram) -> ScoreBins | None:
    classes = {"other": h.negatives.astype(np.float64), "melanoma": h.positives.astype(np.float64)}
    filled = {style: counts for style, counts in classes.items() if counts.sum()}
    return ScoreBins(h.low, h.high, filled) if filled else None


def _fitted_bins(h: NoisyHistogram) -> ScoreBins | None:
    """Bins of the densities that are fitted to noisy counts; none where the noise hides a class."""
    found = densities(h)
    if found is None:
        return None
    edges = found[0].edges
    # The outermost bins have no end; they are drawn as wide as their neighbours.
    low, high = np.append(2 * edges[0] - edges[1], edges), np.append(edges, 2 * edges[-1] - edges[-2])
    return ScoreBins(low, high, {s: d.counts for s, d in zip(("other", "melanoma"), found, strict=True)})


def score_bars(bins: ScoreBins) -> tuple[FloatArray, Shares]:
    """Return edges of bars of one width, and the share of each class in each; scores far out join the outermost bars.

    Args:
        bins: with counts of at least one class; each count is spread evenly over its bin.
    """
    middle = bins.low / 2 + bins.high / 2
    order = np.argsort(middle, kind="stable")
    ends = []
    for counts in bins.counts.values():
        shares = np.cumsum(counts[order]) / counts.sum()
        places = np.searchsorted(shares, (LEAST_SHARE, 1 - LEAST_SHARE)).clip(max=len(order) - 1)
        ends += [bins.low[order[places[0]]], bins.high[order[places[1]]]]
    low, high = float(min(ends)), float(max(ends))
    width = max(high - low, abs(low) * 2.0**-20, 2.0**-20) / (BARS - 2)
    step = 2.0 ** np.ceil(np.log2(width))
    edges: FloatArray = np.arange(np.floor(low / step), np.floor(high / step) + 2) * step
    return edges, {style: _spread(bins.low, bins.high, counts, edges) for style, counts in bins.counts.items()}


def _spread(low: FloatArray, high: FloatArray, counts: FloatArray, edges: FloatArray) -> FloatArray:
    """Return the share of a class in each bar."""
    used = counts > 0
    low, high, counts = low[used], high[used], counts[used] / counts.sum()
    width = np.where(high > low, high - low, 1.0)
    below = [counts @ np.where(high > low, np.clip((e - low) / width, 0, 1), low < e) for e in edges]
    below[0], below[-1] = 0.0, 1.0
    shares = np.diff(below)
    return np.where(shares < LEAST_SHARE, 0.0, shares)


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))
