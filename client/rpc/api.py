"""What a clinic answers: the shapes of its replies, and the worker that gives them.

Nothing here loads torch: the messenger knows a worker by these types alone, wherever it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import numpy as np
import numpy.typing as npt

from melfed.common.errors import MelfedError
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.moments.noisy_moments import NoisyMoments

Received = npt.NDArray[np.generic]  # a tensor from outside, not checked yet
Scored = dict[str, Histogram]
"""Histograms by part; and of a study with subgroups those of the test part's cells, named `subgroups/CELL`."""
Summarised = dict[str, NoisyMoments]
"""Moments of the training and of the validation part."""


@dataclass(frozen=True)
class Description:
    """What a clinic says of itself before a study starts.

    Attributes:
        counts: `<part>_images`, `<part>_positives`, `<part>_groups`. A private study's clinic tells `<part>_units` and
            `<part>_positive_units` in their place, noised once a run; of images declared public it tells the former.
            Empty where no run is named.
        version: of melfed.
        budget: the ε that the policy leaves to this clinic's data; None where the clinic does not tell.
        approved: digests of the studies that the policy approves, or "any"; empty where the clinic does not tell.
        synthetic: whether the data folder says that its pictures are rendered; the folder says it, no patient's row.
        round_minutes: a round of this study at most, as it was timed on synthetic images at its approval: a power of
            two; None where it was not, or the clinic does not tell.
    """

    clinic: str
    digest: str
    counts: dict[str, int]
    version: str
    budget: float | None = None
    approved: tuple[str, ...] = ()
    count_noise: float = 0.0
    """Standard deviation of the noise on each number of positive, and of other, units of a part; 0: none."""
    synthetic: bool = False
    round_minutes: int | None = None


@dataclass(frozen=True)
class PrivacyAccount:
    """What a clinic says of its privacy: total ε of its ledger (infinite without noise), head, and its two σ.

    `evaluation_noise_multiplier` is None where the evaluation images are public.
    """

    epsilon: float
    head: str
    noise_multiplier: float
    evaluation_noise_multiplier: float | None


@dataclass(frozen=True)
class TrainReply:
    """A clinic's answer to one round: its new tensors, and how the model that it was sent did on its validation.

    `tensors` are float32, or of a study with `federation.compression` what `melfed.common.compression` makes of them.
    `weight` is that of the clinic in the mean: its training images, or in a private study its noised number of training
    units. `validation` is None where the study does not ask for it after the round before. A private study's clinic
    gives no `loss`, and an `account` in its place. How long it took hangs on the patients, and is not told.
    """

    tensors: Mapping[str, npt.NDArray[np.generic]]
    weight: int
    loss: float | None
    validation: Histogram | None
    account: PrivacyAccount | None = None


class Worker(Protocol):
    """Answers for a clinic: the worker itself, or the other end of its socket.

    Every method raises the classes of `melfed.common.errors`; what of that may leave the clinic, `told` says.
    """

    @property
    def clinic(self) -> str | None:
        """The clinic's name; None where it is not known yet."""

    def told(self, error: MelfedError) -> MelfedError:
        """Return an error that it raised as it may leave the clinic."""

    def describe(self, run: str = "", counts: bool = True) -> Description:
        """Return what the clinic says of itself to a run, with its counts or without.

        Raises:
            DeclinedError: its policy forbids the run, or too little ε is left to end it.
        """

    def train(self, tensors: Mapping[str, Received], round_number: int, digest: str, run: str = "") -> TrainReply:
        """Return what one round (1-based) from a global model gave."""

    def summarise(self, digest: str, run: str = "") -> Summarised:
        """Return the moments of the study's features, in a study of one round; a run is given them once."""

    def evaluate(self, tensors: Mapping[str, Received], digest: str, run: str = "", round_number: int = 0) -> Scored:
        """Return the histograms of a model's scores on validation and test part.

        `round_number` is one after the last round where a study that stops early evaluates a second model in the end.
        """

    def account(self) -> PrivacyAccount | None:
        """Return what the ledger says after the last answer; None without privacy."""


def melfed_version() -> str:
    """Return the version of melfed that runs here; "unknown" where it runs from files that were never installed."""
    try:
        return version("melfed")
    except PackageNotFoundError:
        return "unknown"
