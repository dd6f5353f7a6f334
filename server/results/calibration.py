"""How a finished run's model is calibrated, and at which thresholds it does what was asked for.

Everything follows from histograms that the clinics have released, those of validation for what is chosen and those of
the test part for how it turns out, so that it costs no further ε.
"""

from melfed.common.algorithms import algorithm_of
from melfed.common.metrics.calibration import calibration_metrics
from melfed.common.metrics.calibration_map import Calibration, Lacking, calibration_map
from melfed.common.metrics.noisy_histogram import Histogram, pooled
from melfed.common.metrics.operating_point import PointResult, operating_point
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import CalibrationSummary


def one_model(study: StudyProtocol) -> bool:
    """Tell whether the scores of a study's clinics are those of one model: only then they have one threshold."""
    if study.federation.mode == "local":
        return False
    return study.federation.mode != "federated" or not algorithm_of(study.federation.algorithm).personal


def summarise_calibration(study: StudyProtocol, outcome: Outcome) -> CalibrationSummary | None:
    """Return how calibrated the model's probabilities are; None where there is not one model, or no validation."""
    validation, test = outcome.validation, pooled(outcome.test.values())
    if validation is None or not outcome.test or not one_model(study):
        return None
    found = calibration_map(validation)
    made = found if isinstance(found, Calibration) else None
    return CalibrationSummary(
        fitted=made,
        lacking=found if isinstance(found, Lacking) else None,
        before=calibration_metrics(test),
        after=calibration_metrics(test, made) if made else None,
    )


def summarise_points(study: StudyProtocol, outcome: Outcome) -> tuple[PointResult, ...]:
    """Return the study's operating points; none where there is not one model, or no validation."""
    validation = outcome.validation
    if validation is None or not outcome.test or not one_model(study):
        return ()
    test: Histogram = pooled(outcome.test.values())
    return tuple(
        operating_point(validation, point.kind, point.wanted, test) for point in study.evaluation.operating_points
    )
