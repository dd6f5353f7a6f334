"""What a clinic answers: the shapes of its replies, and the worker that gives them.

Nothing here loads torch: the messenger knows a worker by these types alone, wherever it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

import numpy as np
import numpy.typing as npt

from common.errors import MelfedError
from common.noisy_histogram import Histogram
from common.tensors import Tensors

Received = npt.NDArray[np.generic]  # a tensor from outside, not checked yet
Scored = dict[str, Histogram]


@dataclass(frozen=True)
class Description:
    """What a clinic says of itself before a study starts: `<part>_images`, `<part>_positives`, `<part>_groups`.

    Attributes:
        version: of melfed.
        budget: the ε that the policy leaves to this clinic's data; None where the clinic does not tell.
        approved: digests of the studies that the policy approves, or "any"; empty where the clinic does not tell.
    """

    clinic: str
    digest: str
    counts: dict[str, int]
    version: str
    budget: float | None = None
    approved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
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

    `validation` is None where the study does not ask for it after the round before. A private study's clinic gives no
    `loss`, and an `account` in its place.
    """

    tensors: Tensors
    images: int
    loss: float | None
    seconds: float
    validation: Histogram | None
    account: Account | None = None


class Worker(Protocol):
    """Answers for a clinic: the worker itself, or the other end of its socket.

    Every method raises the classes of `common.errors`; what of that may leave the clinic, `told` says.
    """

    @property
    def clinic(self) -> str | None:
        """The clinic's name; None where it is not known yet."""

    def told(self, error: MelfedError) -> MelfedError:
        """Return an error that it raised as it may leave the clinic."""

    def describe(self, run: str = "") -> Description:
        """Return what the clinic says of itself before a run. Raises DeclinedError where its policy forbids that."""

    def train(self, tensors: Mapping[str, Received], round_number: int, digest: str, run: str = "") -> TrainReply:
        """Return what one round (1-based) from a global model gave."""

    def evaluate(self, tensors: Mapping[str, Received], digest: str, run: str = "") -> Scored:
        """Return the histograms of a model's scores on validation and test part."""

    def account(self) -> Account | None:
        """Return what the ledger says after the last answer; None without privacy."""


def melfed_version() -> str:
    """Return the version of melfed that runs here; "unknown" where it runs from files that were never installed."""
    try:
        return version("melfed")
    except PackageNotFoundError:
        return "unknown"
