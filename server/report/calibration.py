"""What the report says and shows of calibration and operating points."""

from typing import Any

from melfed.common.metrics.calibration import calibrated_curve
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import Interval
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.metrics.operating_point import TOLERANCE, PointResult
from melfed.server.report.charts import COLOURS, PLOT, Chart
from melfed.server.report.figures import CALIBRATION, CHANCE, DOT, UNIT, Figure, calibration_figure
from melfed.server.report.words import count, plural, spoken
from melfed.server.runs.summary import CalibrationSummary, RunSummary

_MAP, _BEFORE, _AFTER = "Map from logit to probability", "Sigmoid of the logit", "Calibrated"
_NO_MAP = "none: no validation of one model for all clinics is known"
_MEASURES = {
    "brier": ("Brier score", "0"),
    "slope": ("Calibration slope", "1; below it, probabilities are too extreme"),
    "in_the_large": ("Calibration in the large", "0; below it, probabilities are too high"),
    "calibration_error": ("Calibration error", "0"),
}
_ECE = "Expected calibration error"
_READING = (
    "Calibration error: root mean square gap between probability and share of melanomas, less what chance and noise "
    "make of no gap at all."
)
_READING_ECE = f"{_ECE}: mean gap in 15 bins of equal width; a part of it is chance."
CAPTION = (
    "On the dashed line, of 100 {} with a probability of 30 %, 30 have a melanoma; below it the probabilities are too "
    "high. Points: groups with about as many melanomas each; lines: 95 % interval{}."
)


def title(summary: RunSummary) -> str | None:
    """Return the section's heading; None where the run tells nothing of calibration."""
    if summary.operating_points:
        return "Calibration and operating points"
    return "Calibration" if summary.calibration is not None or summary.test.brier is not None else None


def figures(scores: Histogram, summary: RunSummary, unit: str | None) -> list[Figure]:
    """Return the section's one figure: the curve before the map and after it, or without a map all there is to one.

    Args:
        scores: of the pooled test parts; none of them where the run does not tell them.
        summary: of the run.
        unit: as of `melfed.server.report.words.noised_unit`.
    """
    known = summary.calibration
    if isinstance(scores, ScoreHistogram) and (known is None or known.fitted is None):
        return [calibration_figure(scores, summary.test)] if scores.images else []
    return [] if known is None else [figure(scores, known, unit)]


def figure(scores: Histogram, calibration: CalibrationSummary, unit: str | None) -> Figure:
    """Return the observed share of melanomas against the probability, before the map and after it.

    Args:
        scores: of the pooled test parts.
        calibration: of the run.
        unit: as of `melfed.server.report.words.noised_unit`.
    """
    curves = {"other": (calibrated_curve(scores), _BEFORE.lower())}
    if calibration.fitted is not None:
        curves["auroc"] = calibrated_curve(scores, calibration.fitted), _AFTER.lower()
    if not any(len(curve.counts) for curve, _ in curves.values()):
        return Figure(CALIBRATION, None, why(calibration))
    chart = Chart(PLOT)
    axes = chart.axes[0]
    axes.set(xlim=UNIT, ylim=UNIT, xlabel="Probability of melanoma", ylabel="Observed share of melanomas")
    axes.plot(UNIT, UNIT, **CHANCE)
    for style, (curve, name) in curves.items():
        axes.vlines(curve.mean_predicted, curve.low, curve.high, color=COLOURS[style])
        axes.plot(curve.mean_predicted, curve.observed, color=COLOURS[style], linewidth=1)
        for p, observed, low, high, images in zip(
            curve.mean_predicted, curve.observed, curve.low, curve.high, curve.counts, strict=True
        ):
            (mark,) = axes.plot(p, observed, "o", color=COLOURS[style], clip_on=False, zorder=3, **DOT)
            limits = f"observed {observed:.3f} ({low:.3f} to {high:.3f})"
            chart.tell(mark, f"{name}: {p:.3f}, {limits}, {count(round(images))} in the group")
    caption = CAPTION.format(plural(unit) if unit else "images", ", noise included" if unit else "")
    keys = tuple((style, name) for style, (_, name) in curves.items())
    return Figure(CALIBRATION, chart.svg(f"{CALIBRATION}. {caption}"), caption, keys)


def why(calibration: CalibrationSummary) -> str:
    """Return why there is no figure."""
    needed = calibration.before.melanomas_needed
    if needed is None:
        return "the test part has images of one class alone"
    return f"the noise hides a class; about {count(needed)} with a melanoma would be needed in the test part"


def facts(summary: RunSummary) -> list[tuple[str, str]]:
    """Return what the map is."""
    return [(_MAP, _NO_MAP if summary.calibration is None else _map(summary.calibration))]


def measures(summary: RunSummary) -> dict[str, Any]:
    """Return caption, headings and rows of the table of figures, before the map and after it."""
    known, test = summary.calibration, summary.test
    after = None if known is None else known.after
    rows, reading = [], []
    if known is not None:
        reading.append(_READING)
        for name, (heading, best) in _MEASURES.items():
            each = [one for one in (known.before, after) if one is not None]
            rows.append((heading, best, *(_number(getattr(one, name), one.melanomas_needed) for one in each)))
    elif test.brier is not None:
        rows.append((*_MEASURES["brier"], f"{test.brier:.3f}"))
    if test.ece is not None:
        reading.append(_READING_ECE)
        rows.append((_ECE, "0", f"{test.ece:.3f}", *(["–"] if after else [])))
    columns = ("Measure", "Best", _BEFORE, *([_AFTER] if after else []))
    return {"caption": f"On the test parts, pooled. {' '.join(reading)}".rstrip(". "), "columns": columns, "rows": rows}


def _number(found: Interval, needed: int | None) -> str:
    if found.value is None and needed is not None:
        return f"undefined, as the noise hides it; about {count(needed)} with a melanoma would be needed"
    return spoken(found)


def _map(calibration: CalibrationSummary) -> str:
    fitted = calibration.fitted
    if fitted is None:
        return f"none: {calibration.lacking}"
    if fitted.knots:
        return f"monotone, with {len(fitted.knots)} bends: the validation scores show that a logistic is not enough"
    (a, _), (_, b) = ((row[0], row[1]) for row in fitted.covariance)
    slope, intercept = (f"{v:.3g} ± {1.96 * e**0.5:.2g}" for v, e in ((fitted.slope, b), (fitted.intercept, a)))
    return f"Platt's, a logistic with slope {slope} and intercept {intercept} (95 %), from the validation scores"


def points(summary: RunSummary) -> dict[str, Any]:
    """Return caption, headings and rows of the table of operating points."""
    caption = (
        "Thresholds that the validation scores give, what they promise (95 % interval), and what they did on the test "
        f"part. None is given where the promise could be off by more than {TOLERANCE:g}"
    )
    names = ("Operating point", "Promised by validation", "Sensitivity in test", "Specificity in test")
    return {"caption": caption, "columns": names, "rows": [_row(point) for point in summary.operating_points]}


def _row(point: PointResult) -> tuple[str, ...]:
    if point.logit is None:
        return point.name, f"not promised: {point.lacking}", "–", "–"
    promise: Interval = getattr(point.validation, point.kind)
    return point.name, spoken(promise), spoken(point.test.sensitivity), spoken(point.test.specificity)
