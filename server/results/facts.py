"""What is told of a finished run's model, wherever it goes."""

from collections.abc import Iterator

from melfed.common.export.facts import ModelFacts, OperatingPoint, Protection
from melfed.common.metrics.histogram import sigmoid
from melfed.server.results.seen import seen_of
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RunSummary


def facts_of(folder: RunFolder, clinic: str | None = None) -> ModelFacts:
    """Return the facts of a finished run's model, or of a clinic's own.

    Raises:
        RunError: the run has not finished, or is damaged.
    """
    return facts_by(folder, folder.summary(), clinic)


def facts_by(folder: RunFolder, summary: RunSummary, clinic: str | None = None) -> ModelFacts:
    """Return the facts, by a summary that may not be written yet. Raises RunError where the folder is damaged."""
    privacy = summary.privacy
    protection = None
    if privacy is not None:
        protection = Protection(unit=privacy.unit, epsilon=privacy.epsilon_spent, delta=privacy.delta)
    return ModelFacts.of(
        folder.study(),
        study=summary.study.digest,
        run=folder.identity,
        synthetic=summary.data.synthetic,
        privacy=protection,
        calibration=None if summary.calibration is None else summary.calibration.fitted,
        operating_points=tuple(_points(summary)),
        seen=seen_of(folder, clinic),
    )


def _points(summary: RunSummary) -> Iterator[OperatingPoint]:
    """Yield the points that are promised, by the probability that the model gives."""
    fitted = None if summary.calibration is None else summary.calibration.fitted
    for point in summary.operating_points:
        if point.logit is not None:
            promise = getattr(point.validation, point.kind)
            logit = point.logit if fitted is None else float(fitted.logit(point.logit))
            yield OperatingPoint(name=point.name, threshold=float(sigmoid(logit)), low=promise.low, high=promise.high)
