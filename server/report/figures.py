"""The report's figures: each takes results and returns an HTML figure with a caption, or says why it is not drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from melfed.common.metrics.curves import calibration_curve
from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.noisy import densities, pr_of, roc_of
from melfed.common.metrics.noisy_histogram import Histogram, NoisyHistogram
from melfed.server.report.charts import LEFT, RIGHT, TOP, WIDTH, Axis, Chart, Point, drawing, nice_axis, unit_axis
from melfed.server.report.markup import Markup, element, number
from melfed.server.report.words import count, hint, limits_of, plural, prevalence, spoken, value_of
from melfed.server.runs.summary import ClinicSummary, RoundSummary

SQUARE = WIDTH - LEFT - RIGHT
FOREST_CLINICS = 40
FOREST_NAME = 20  # characters
FOREST_LINE = 40  # pixels
CURVE_ROUNDS = 400
DOTTED_ROUNDS = 40
BARS = 96  # of the score figure, at most; half as many at least, as they are a power of two wide
FAR = 12.0  # logits beyond it are no probabilities that anybody reads

LEAST_SHARE = 1e-4  # of a class: smaller bars of a density, which has no end, are not drawn

Key = tuple[str, str]
Shares = dict[str, FloatArray]


@dataclass(frozen=True)
class ScoreBins:
    """Score bins from `low` to `high`, logits, and the counts of each class in them, by style."""

    low: FloatArray
    high: FloatArray
    counts: dict[str, FloatArray]


def figure(title: str, image: Markup, caption: str, keys: Sequence[Key] = (), style: str = "") -> Markup:
    """Return an HTML figure.

    Args:
        title: heading.
        image: the SVG.
        caption: what to see in it.
        keys: legend: style and words of each kind of mark.
        style: class of the figure.
    """
    legend = [element("li", element("span", class_=f"key {style}"), words) for style, words in keys]
    return element(
        "figure",
        element("h3", title),
        element("ul", *legend, class_="legend") if legend else "",
        image,
        element("figcaption", caption),
        class_=style or None,
    )


def missing(title: str, reason: str) -> Markup:
    """Return what stands in place of a figure that cannot be drawn."""
    return element("figure", element("h3", title), element("p", f"Not drawn: {reason}.", class_="undefined"))


def gauge(interval: Interval, chance: float | None) -> Markup:
    """Return a small bar from 0 to 1 with the interval, its value and the level of chance."""
    if interval.value is None or interval.low is None or interval.high is None:
        return Markup("")
    reach = 200 * (interval.high - interval.low)
    parts = [
        element("rect", x=0, y=3, width=200, height=6, rx=3, class_="track"),
        element("rect", x=200 * interval.low, y=2, width=reach, height=8, class_="reach"),
    ]
    if chance is not None:
        parts.append(element("line", x1=200 * chance, x2=200 * chance, y1=0, y2=12, class_="chance"))
    at = min(198.0, max(0.0, 200 * interval.value - 1))
    parts.append(element("rect", x=at, y=0, width=2, height=12, class_="value"))
    return element("svg", *parts, viewBox="0 0 200 12", class_="gauge", aria_hidden="true")


@dataclass(frozen=True)
class _Row:
    """One line of the forest plot."""

    name: str
    metrics: EvaluationMetrics
    style: str


def forest(clinics: Sequence[ClinicSummary], pooled: EvaluationMetrics, unit: str | None = None) -> Markup:
    """Return the AUROC of each clinic and of all pooled, as points with intervals; `unit` as of `noised_unit`."""
    largest = {clinic.name for clinic in sorted(clinics, key=lambda clinic: -clinic.test.images)[:FOREST_CLINICS]}
    rows = [row for clinic in clinics if clinic.name in largest for row in _clinic_rows(clinic)]
    rows.append(_Row("All pooled", pooled, "pooled"))
    lows = [row.metrics.auroc.low for row in rows if row.metrics.auroc.low is not None]
    axis = unit_axis("AUROC on the test part (0.5 is chance)", 0.0 if min(lows, default=0.5) < 0.3 else 0.3)
    chart = Chart(axis, Axis(0, 1, (), ""), height=FOREST_LINE * len(rows) + 8)
    chart.line([(0.5, 0), (0.5, 1)], "chance")
    for index, row in enumerate(rows):
        chart.marks += _forest_line(chart, TOP + FOREST_LINE * index + 18, row, unit)
    caption = "A point is a clinic's AUROC, the line its 95 % interval; the dashed line is chance."
    if len(clinics) > FOREST_CLINICS:
        most = "test images" if unit is None else f"{plural(unit)} in test, by noisy counts,"
        caption += f" The {FOREST_CLINICS} clinics with most {most} are shown; all are in the table."
    if len(rows) > len(largest) + 1:
        caption += " “Everywhere” is that clinic's model on the test parts of all clinics."
    words = "; ".join(f"{row.name}: {spoken(row.metrics.auroc)}" for row in rows)
    image = drawing(chart, description=f"Forest plot of AUROC. {words}.")
    return figure("AUROC by clinic", image, caption, style="wide")


def _clinic_rows(clinic: ClinicSummary) -> Iterator[_Row]:
    yield _Row(clinic.name, clinic.test, "auroc")
    if clinic.everywhere:
        yield _Row("↳ everywhere", clinic.everywhere, "second")


def _forest_line(chart: Chart, y: float, row: _Row, unit: str | None) -> Iterator[Markup]:
    """Name and value at height `y`, and the interval below them."""
    interval, limits = row.metrics.auroc, limits_of(row.metrics.auroc)
    value = f"{value_of(interval)} ({limits})" if limits else "undefined"
    short = row.name if len(row.name) <= FOREST_NAME else f"{row.name[: FOREST_NAME - 1]}…"
    yield element("text", short, element("title", row.name), x=LEFT, y=y, class_=f"name {row.style}")
    yield element("text", value, x=WIDTH - RIGHT, y=y, text_anchor="end", class_="value")
    if interval.value is None or interval.low is None or interval.high is None:
        yield element(
            "text", hint(row.metrics, unit=unit) or "", x=WIDTH - RIGHT, y=y + 16, text_anchor="end", class_="note"
        )
        return
    low, middle, high = (chart.at(value, 0)[0] for value in (interval.low, interval.value, interval.high))
    yield element("line", x1=low, x2=high, y1=y + 11, y2=y + 11, class_=f"line {row.style}")
    if row.style == "auroc":
        yield element("circle", cx=middle, cy=y + 11, r=4.5, class_="dot auroc")
    else:
        around = ((0, -6), (6, 0), (0, 6), (-6, 0))
        corners = " ".join(f"{number(middle + dx)},{number(y + 11 + dy)}" for dx, dy in around)
        yield element("polygon", points=corners, class_=f"dot {row.style}")


def loss_figure(rounds: Sequence[RoundSummary]) -> Markup:
    """Return the training loss by round; at least one round has one."""
    rows = _thinned([row for row in rounds if row.train_loss is not None])
    losses = [row.train_loss or 0.0 for row in rows]
    top = max([*losses, 1e-9]) * 1.08
    chart = Chart(_round_axis(rows), nice_axis(0.0, top, "Training loss"), height=250)
    chart.line(zip([row.round for row in rows], losses, strict=True), "auroc")
    for row, loss in zip(rows, losses, strict=True) if len(rows) <= DOTTED_ROUNDS else ():
        chart.dot(row.round, loss, "auroc", f"Round {row.round}: loss {loss:.4f}")
    words = (
        f"Training loss by round: {losses[0]:.3f} in round {rows[0].round}, {losses[-1]:.3f} in round {rows[-1].round}."
    )
    caption = "Mean loss over the training images of each round, while the model was learning from them."
    return figure("Training loss", drawing(chart, description=words), caption)


def validation_figure(rounds: Sequence[RoundSummary]) -> Markup:
    """Return validation AUROC and AUPRC by round, with intervals."""
    rows = [row for row in _thinned(rounds) if row.validation is not None]
    if not any(row.validation.auroc.value is not None for row in rows if row.validation):
        return missing("Validation", "no round has a validation part with melanomas and other images")
    chart = Chart(_round_axis(rows), unit_axis("Validation part, pooled"), height=250)
    said = []
    for name, style in (("auprc", "auprc dashed"), ("auroc", "auroc")):
        series = [(row.round, getattr(row.validation, name)) for row in rows]
        _series(chart, series, name.upper(), style)
        said.append(f"{name.upper()} {spoken(series[-1][1])}")
    words = f"Validation by round; after round {rows[-1].round}: {', '.join(said)}."
    caption = "Each round's model on the clinics' validation parts, which it did not learn from; shaded: 95 % interval."
    keys = [("auroc", "AUROC"), ("auprc dashed", "AUPRC")]
    return figure("Validation", drawing(chart, description=words), caption, keys)


def _series(chart: Chart, series: Sequence[tuple[int, Interval]], name: str, style: str) -> None:
    """Draw values with band; a round where the value is undefined leaves a gap."""
    for defined, run in groupby(series, key=lambda item: item[1].value is not None):
        part = [(r, i.value or 0.0, i.low or 0.0, i.high or 0.0) for r, i in run]
        if not defined:
            continue
        xs, values, lows, highs = (list(column) for column in zip(*part, strict=True))
        if len(part) == 1:
            chart.range(xs[0], lows[0], highs[0], style)
        chart.band(xs, lows, highs, style)
        chart.line(zip(xs, values, strict=True), style)
        for x, value, low, high in part if len(series) <= DOTTED_ROUNDS else ():
            chart.dot(x, value, style, f"Round {x}: {name} {value:.3f} ({low:.3f} to {high:.3f})")


def roc_figure(h: Histogram, metrics: EvaluationMetrics, unit: str | None = None) -> Markup:
    """Return the pooled ROC curve with its band and the line of chance."""
    curve = roc_of(h)
    if not curve.sensitivity.size:
        return missing("ROC curve", hint(metrics, unit=unit) or "one class only")
    chart = Chart(unit_axis("1 − specificity"), unit_axis("Sensitivity"), height=SQUARE)
    chart.band(list(curve.false_positive_rate), list(curve.low), list(curve.high), "auroc")
    chart.line([(0, 0), (1, 1)], "chance")
    chart.text(0.7, 0.7, "chance", "end", up=6)
    chart.line(zip(curve.false_positive_rate, curve.sensitivity, strict=True), "auroc")
    for specificity, at in ((90, metrics.sensitivity_at_90_specificity), (95, metrics.sensitivity_at_95_specificity)):
        if at.value is not None:
            tip = f"At {specificity} % specificity: sensitivity {spoken(at)}"
            chart.dot(1 - specificity / 100, at.value, "auroc", tip)
    words = f"ROC curve of all clinics' test parts pooled. AUROC {spoken(metrics.auroc)}."
    caption = (
        f"AUROC {spoken(metrics.auroc)}. Points: sensitivity at 95 % and 90 % specificity. Shaded: 95 % interval of "
        "the sensitivity at each threshold."
    )
    return figure("ROC curve", drawing(chart, description=words), caption)


def pr_figure(h: Histogram, metrics: EvaluationMetrics, unit: str | None = None) -> Markup:
    """Return the pooled precision-recall curve with its band and the share of melanomas."""
    curve, share = pr_of(h), prevalence(metrics)
    if not curve.recall.size or share is None:
        return missing("Precision and recall", hint(metrics, unit=unit) or "one class only")
    chart = Chart(unit_axis("Recall (sensitivity)"), unit_axis("Precision"), height=SQUARE)
    chart.band(list(curve.recall), list(curve.low), list(curve.high), "auprc")
    chart.line([(0, share), (1, share)], "chance")
    chart.text(1, share, f"chance: {share:.3f}", "end", up=-16 if share > 0.1 else 6)
    chart.line(zip(curve.recall, curve.precision, strict=True), "auprc")
    words = (
        f"Precision-recall curve of all clinics' test parts pooled. AUPRC {spoken(metrics.auprc)}, chance {share:.3f}."
    )
    caption = (
        f"AUPRC {spoken(metrics.auprc)}. The dashed line is guessing: the share of melanomas. Shaded: 95 % interval of "
        "the precision at each threshold."
    )
    return figure("Precision and recall", drawing(chart, description=words), caption)


def calibration_figure(h: ScoreHistogram, metrics: EvaluationMetrics) -> Markup:
    """Return observed against predicted melanoma rate, and below how many images are in each bin."""
    if metrics.brier is None or metrics.ece is None:
        return missing("Calibration", hint(metrics) or "no test image was evaluated")
    curve = calibration_curve(h)
    chart = Chart(unit_axis(""), unit_axis("Observed melanoma rate"), height=SQUARE - 100)
    chart.line([(0, 0), (1, 1)], "chance")
    rows = list(zip(curve.mean_predicted, curve.observed, curve.low, curve.high, curve.counts, strict=True))
    for predicted, _, low, high, _ in rows:
        chart.range(predicted, low, high, "auroc")
    chart.line(zip(curve.mean_predicted, curve.observed, strict=True), "auroc thin")
    for predicted, observed, low, high, images in rows:
        tip = f"Predicted {predicted:.3f}, observed {observed:.3f} ({low:.3f} to {high:.3f}), {images:,.0f} images"
        chart.dot(predicted, observed, "auroc", tip)
    most = float(curve.counts.max())
    counts = Axis(0, most * 1.1, ((0.0, "0"), (most, count(int(most)))), "Images")
    strip = Chart(unit_axis("Predicted probability of melanoma"), counts, top=chart.bottom + 30, height=70)
    for index, images in enumerate(h.calibration_counts):
        if images:
            left, right = index / len(h.calibration_counts), (index + 1) / len(h.calibration_counts)
            strip.bar(left, right, float(images), "other", f"{left:.2f} to {right:.2f}: {count(int(images))} images")
    scores = f"Brier score {metrics.brier:.3f}, expected calibration error {metrics.ece:.3f}"
    caption = (
        f"{scores} (0 is best for both). On the dashed line, of 100 images with a predicted probability of 30 %, 30 "
        "are melanomas; below it the model says melanoma too often. Lines: 95 % interval; bars: images in each bin."
    )
    words = f"Calibration curve of all clinics' test images pooled. {scores}."
    return figure("Calibration", drawing(chart, strip, description=words), caption)


def scores_figure(h: Histogram, metrics: EvaluationMetrics, unit: str | None = None) -> Markup:
    """Return how scores are spread in each class, on a logit axis."""
    found = _exact_bins(h) if isinstance(h, ScoreHistogram) else _fitted_bins(h)
    edges, shares = score_bars(found) if found else (np.zeros(0), {})
    if not shares:
        return missing("Scores by class", hint(metrics, unit=unit) or "no test image was evaluated")
    low, high = float(edges[0]), float(edges[-1])
    ticks = tuple((_logit(p), f"{p:g}") for p in (1e-5, 1e-4, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999))
    inside = tuple(t for t in ticks if low <= t[0] <= high)
    # Where scores lie close together, or far out, probabilities tell nothing.
    across = Axis(low, high, inside, "Predicted probability (logit scale)")
    if len(inside) < 3 or max(-low, high) > FAR:
        across = nice_axis(low, high, "Logit of the predicted probability")
    top = 108 * max(float(values.max()) for values in shares.values())
    chart = Chart(across, nice_axis(0, top, "Share of the class, %"), height=SQUARE - 54)
    for style, values in shares.items():
        points = list(_outline(edges, 100 * values))
        chart.band([x for x, _ in points], [0.0] * len(points), [y for _, y in points], style)
        chart.line(points, style)
    if low < 0 < high:
        chart.line([(0, 0), (0, top)], "chance")
        chart.text(0, top, "threshold 0.5", right=6, up=-12)
    caption = f"{_numbers(metrics, unit)}; the less the two overlap, the better the model tells them apart."
    names = {"melanoma": "melanomas", "other": "other images"}
    keys = [(style, name) for style, name in names.items() if style in shares]
    return figure(
        "Scores by class",
        drawing(chart, description=f"Histogram of the {caption[0].lower()}{caption[1:]}"),
        caption,
        keys,
    )


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


def _outline(edges: FloatArray, heights: FloatArray) -> Iterator[Point]:
    """The upper outline of a histogram."""
    yield float(edges[0]), 0.0
    for left, right, height in zip(edges, edges[1:], heights, strict=False):
        yield float(left), float(height)
        yield float(right), float(height)
    yield float(edges[-1]), 0.0


def _logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def _thinned(rounds: Sequence[RoundSummary]) -> list[RoundSummary]:
    """At most `CURVE_ROUNDS` rounds, evenly spread, the first and the last among them."""
    chosen = np.unique(np.linspace(0, len(rounds) - 1, min(len(rounds), CURVE_ROUNDS)).round().astype(int))
    return [rounds[int(index)] for index in chosen]


def _round_axis(rows: Sequence[RoundSummary]) -> Axis:
    return nice_axis(rows[0].round, rows[-1].round, "Round", whole=True)
