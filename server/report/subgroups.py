"""What the report says of subgroups: a table an attribute, the largest gaps, and how both are to be read."""

from dataclasses import dataclass

from melfed.common.data.subgroups import BY_CLINIC
from melfed.common.metrics.intervals import Interval
from melfed.common.metrics.subgroups import FEWEST, Gap, SubgroupMetrics
from melfed.server.report.count_words import headings, marked
from melfed.server.report.words import capital, noised_unit, spoken
from melfed.server.runs.summary import AttributeSummary, RunSummary, SubgroupsSummary

TOO_FEW = "too few"
_ATTRIBUTES = {
    "age": "age",
    "sex": "sex",
    "site": "site on the body",
    "skin_type": "skin type",
    BY_CLINIC: "source (clinic)",
}
_MEASURES = {"auroc": "AUROC", "sensitivity": "Sensitivity", "calibration": "Calibration in the large"}


@dataclass(frozen=True)
class SubgroupTable:
    """One attribute's table.

    Attributes:
        caption: above it.
        columns: headings.
        rows: name of a subgroup, its two numbers, and a value with its limits a measure; no values: too few.
        gaps: a sentence a measure.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, str], tuple[tuple[str, str], ...]], ...]
    gaps: tuple[str, ...]


def tables(summary: RunSummary) -> list[SubgroupTable]:
    """Return a table for each attribute that a run's study asked for; none where it asked for nothing."""
    if summary.subgroups is None:
        return []
    unit = noised_unit(summary)
    counted = ("Images", "Melanomas") if unit is None else headings(unit)
    columns = ("Subgroup", *counted, *_MEASURES.values())
    return [_table(found, columns, about=unit is not None) for found in summary.subgroups.attributes]


def lines(summary: RunSummary) -> list[str]:
    """Return a line an attribute for the terminal: where the AUROC is least and most, and how far these are apart."""
    found = summary.subgroups
    return [] if found is None else [_line(each) for each in found.attributes]


def _line(found: AttributeSummary) -> str:
    begin = f"by {_ATTRIBUTES.get(found.attribute, found.attribute)}"
    gap = next((gap for gap in found.gaps if gap.measure == "auroc"), None)
    few = [name for name, cell in found.cells.items() if cell.too_few and cell.units]
    left_out = f"; {TOO_FEW}: {', '.join(few)}" if few else ""
    if gap is None:
        return f"{begin}: fewer than two subgroups have enough melanomas and others to be compared{left_out}"
    ends = [f"{name} {spoken(found.cells[name].auroc)}" for name in (gap.lowest, gap.highest)]
    return f"{begin}: lowest AUROC {ends[0]}, highest {ends[1]}; largest gap {spoken(gap.gap)}{left_out}"


def reading(summary: RunSummary) -> list[str]:
    """Return how the tables are to be read, in sentences."""
    found = summary.subgroups
    if found is None:
        return []
    each = "patient" if noised_unit(summary) is None else noised_unit(summary)
    said = [
        f"Each {each} is in one subgroup of an attribute, by its first image; what a table does not say is a subgroup "
        "of its own.",
        _threshold(found),
        "Calibration in the large is the mean score less the share of melanomas: above 0 the model says too much, "
        "below 0 too little.",
        f"Too few: fewer than {FEWEST} melanomas or {FEWEST} others"
        + (", or no more than the noise can make of nobody." if noised_unit(summary) else "."),
        "The largest gap is that between the two ends of all subgroups; its interval is that of the worst of all "
        "pairs, so that it does not find one where there is none.",
    ]
    if noised_unit(summary) is not None:
        said.append("All of it follows from histograms with noise, so numbers of neighbouring tables need not agree.")
    return said


def _threshold(found: SubgroupsSummary) -> str:
    at = f"Sensitivity is that at a score of {found.threshold:.3g} or more"
    if found.point is not None:
        return f"{at}: the study's operating point, {found.point}."
    if found.specificity is None:
        return f"{at}, since the validation part leaves a threshold by specificity open."
    return f"{at}, which has {100 * found.specificity:.0f} % specificity on the validation part."


def _table(found: AttributeSummary, columns: tuple[str, ...], *, about: bool) -> SubgroupTable:
    rows = tuple((name, _counts(cell, about=about), _values(cell)) for name, cell in found.cells.items())
    caption = f"By {_ATTRIBUTES.get(found.attribute, found.attribute)}; below a value its 95 % interval"
    return SubgroupTable(caption, columns, rows, tuple(_gap(gap) for gap in found.gaps))


def _counts(cell: SubgroupMetrics, *, about: bool) -> tuple[str, str]:
    return marked(cell.units, about=about), marked(cell.melanomas, about=about)


def _values(cell: SubgroupMetrics) -> tuple[tuple[str, str], ...]:
    """Return value and limits of each measure; nothing where there are too few."""
    if cell.too_few:
        return ()
    return (_shown(cell.auroc), _shown(cell.sensitivity), _shown(cell.calibration, sign="+"))


def _shown(interval: Interval, sign: str = "") -> tuple[str, str]:
    if interval.value is None or interval.low is None or interval.high is None:
        return "undefined", ""
    return f"{interval.value:{sign}.3f}", f"{interval.low:{sign}.3f} to {interval.high:{sign}.3f}"


def _gap(found: Gap) -> str:
    value, limits = _shown(found.gap)
    return (
        f"Largest gap of {capital(_MEASURES[found.measure]) if found.measure == 'auroc' else found.measure}: {value} "
        f"(95 % interval {limits}), from {found.lowest} to {found.highest}."
    )
