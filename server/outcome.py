"""What a finished run hands over: models, and each clinic's histogram of test scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.histogram import ScoreHistogram
from common.tensors import Tensors
from server.observer import Counts


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        models: trainable tensors; one model named "", or in `local` mode one a clinic.
        clinics: each clinic's counts, by `<part>_images`, `<part>_positives`, `<part>_groups`.
        test: each clinic's test part, scored by the global model, or in `local` mode by its own.
        everywhere: in `local` mode the test parts of all clinics, scored by each clinic's own model.
    """

    models: Mapping[str, Tensors]
    clinics: Mapping[str, Counts]
    test: Mapping[str, ScoreHistogram]
    everywhere: Mapping[str, ScoreHistogram] = field(default_factory=dict)
