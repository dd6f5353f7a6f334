"""What a finished run hands over: models, and each clinic's histogram of test scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.tensors import Tensors
from melfed.server.runs.counts import Counts


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
class Outcome:
    """A finished run.

    Attributes:
        models: trainable tensors; one model named "", or in `local` mode one a clinic.
        clinics: what each clinic says of its data.
        test: each clinic's test part, scored by the global model, or in `local` mode by its own.
        everywhere: in `local` mode the test parts of all clinics, scored by each clinic's own model.
        accounts: of a private study, what each clinic last said of its privacy.
    """

    models: Mapping[str, Tensors]
    clinics: Mapping[str, Counts]
    test: Mapping[str, Histogram]
    everywhere: Mapping[str, Histogram] = field(default_factory=dict)
    accounts: Mapping[str, ReportedAccount] = field(default_factory=dict)
