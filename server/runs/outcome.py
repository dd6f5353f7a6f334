"""What a finished run hands over: models, and each clinic's histogram of test scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.tensors import Tensors
from melfed.server.runs.counts import Counts

LATE = "no answer within"
"""What the reason begins with that is noted for a clinic whose answer did not come in time."""


@dataclass(frozen=True)
class ReportedAccount:
    """What a clinic says of its privacy after a round.

    Attributes:
        epsilon: the total of its ledger at the study's delta; None where there was no noise.
        head: hash of the ledger's last row.
        noise_multiplier: σ of a training step.
        evaluation_noise_multiplier: σ of its histograms; None where they are public.
    """

    epsilon: float | None
    head: str
    noise_multiplier: float
    evaluation_noise_multiplier: float | None


@dataclass(frozen=True)
class ChosenRound:
    """Which round's model was taken, of a study that stops early.

    Attributes:
        round: whose model it is; the last one where no validation was defined.
        value: the metric of its validation; None: undefined in every round.
        trained: rounds that were trained.
    """

    round: int
    value: float | None
    trained: int


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        models: trainable tensors; one model named "", or in `local` mode one a clinic.
        clinics: what each clinic says of its data.
        test: each clinic's test part, scored by the global model, or in `local` mode by its own.
        everywhere: in `local` mode the test parts of all clinics, scored by each clinic's own model.
        accounts: of a private study, what each clinic last said of its privacy.
        chosen: of a study that stops early, by the names of `models`, which round's each is.
        subgroups: histograms of all test parts together by cell (`melfed.common.data.subgroups.cell_names`), as the
            study asks.
        local: each clinic's test part, scored by the model that it has trained alone, as the study asks.
        validation: the validation parts of all clinics, scored by the one final model; None where there are several.
    """

    models: Mapping[str, Tensors]
    clinics: Mapping[str, Counts]
    test: Mapping[str, Histogram]
    everywhere: Mapping[str, Histogram] = field(default_factory=dict)
    accounts: Mapping[str, ReportedAccount] = field(default_factory=dict)
    chosen: Mapping[str, ChosenRound] = field(default_factory=dict)
    subgroups: Mapping[str, Histogram] = field(default_factory=dict)
    local: Mapping[str, Histogram] = field(default_factory=dict)
    validation: Histogram | None = None
