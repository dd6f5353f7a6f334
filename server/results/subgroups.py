"""How a finished run's model does on subgroups of the test part, by histograms that clinics have released."""

from collections.abc import Mapping, Sequence

from scipy.special import expit

from melfed.common.data.subgroups import ATTRIBUTES, BY_CLINIC
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.metrics.operating_point import PointResult
from melfed.common.metrics.subgroups import MEASURES, Gap, SubgroupMetrics, largest_gap, subgroup_metrics
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import AttributeSummary, RoundSummary, SubgroupsSummary

SPECIFICITY = 0.9
"""On the validation part, of the threshold that all subgroups are told at."""


def summarise_subgroups(
    study: StudyProtocol, outcome: Outcome, rounds: Sequence[RoundSummary], points: Sequence[PointResult] = ()
) -> SubgroupsSummary | None:
    """Return what the study asks for; None where it asks for nothing, or nothing has been evaluated.

    Args:
        study: what was run.
        outcome: with the histograms of the test part: by cell, and each clinic's.
        rounds: with their validations, of which the model's own gives the threshold: the test part has no say in it.
        points: the study's operating points; the first with a threshold is that of all subgroups.
    """
    asked = study.evaluation.subgroups
    if not asked or not outcome.test:
        return None
    point = next((point for point in points if point.logit is not None), None)
    threshold = _threshold(outcome, rounds) if point is None else float(expit(point.logit))
    at = 0.5 if threshold is None else threshold
    told = (_attribute(name, _histograms(name, outcome), at) for name in asked)
    return SubgroupsSummary(
        threshold=at,
        point=None if point is None else point.name,
        specificity=None if threshold is None or point is not None else SPECIFICITY,
        attributes=tuple(found for found in told if found is not None),
    )


def _threshold(outcome: Outcome, rounds: Sequence[RoundSummary]) -> float | None:
    """Return the threshold of the model's own validation; None where it is undefined, or at the end of the scale."""
    last = outcome.chosen[""].round if "" in outcome.chosen else max((row.round for row in rounds), default=0)
    validation = next((row.validation for row in rounds if row.round == last), None)
    found = None if validation is None else validation.threshold_at_90_specificity
    return found if found is not None and 0 < found < 1 else None


def _histograms(attribute: str, outcome: Outcome) -> dict[str, Histogram]:
    """Return the histograms of an attribute's cells by their names; none where the clinics were not asked."""
    if attribute == BY_CLINIC:
        return dict(outcome.test)
    names = ATTRIBUTES[attribute].cells
    found = {name: outcome.subgroups.get(f"{attribute}/{number}") for number, name in enumerate(names)}
    return {name: histogram for name, histogram in found.items() if histogram is not None}


def _attribute(name: str, histograms: Mapping[str, Histogram], threshold: float) -> AttributeSummary | None:
    if not histograms:
        return None
    cells = {cell: subgroup_metrics(histogram, threshold) for cell, histogram in histograms.items()}
    return AttributeSummary(attribute=name, cells=cells, gaps=tuple(_gaps(cells)))


def _gaps(cells: Mapping[str, SubgroupMetrics]) -> list[Gap]:
    found = (largest_gap(measure, {cell: getattr(m, measure) for cell, m in cells.items()}) for measure in MEASURES)
    return [gap for gap in found if gap is not None]
