"""Early stopping: which round's model is the best so far by its validation, and whether it is time to end.

What is looked at is the pooled histogram of all clinics' validation parts, or in the `local` baseline each clinic's
own. In a private study it has its noise already, so that choosing by it costs nothing further.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from melfed.common.study.data_sections import Section


class StopSpec(Section):
    """When a study ends before its last round, and by what its best round is chosen."""

    metric: Literal["auroc", "auprc", "brier"] = Field(
        "auroc", description="what is compared, of the validation; brier (the squared error) needs it without noise"
    )
    patience: int = Field(
        3, ge=1, le=100_000, description="validations in a row without a better one after which a study ends"
    )


@dataclass(frozen=True)
class BestRound:
    """What the validations so far say.

    Attributes:
        seen: the last round whose validation was looked at.
        round: whose model is the best; 0: none yet.
        value: its metric; None: none yet.
        since: validations since then, none of them better; those whose metric is undefined do not count.

    >>> spec, best = StopSpec(patience=2), BestRound()
    >>> for number, auroc in enumerate([0.7, 0.8, None, 0.8, 0.6], start=1):
    ...     best = best.after(spec, number, auroc)
    ...
    >>> best.round, best.value, best.ends(spec)
    (2, 0.8, True)
    """

    seen: int = 0
    round: int = 0
    value: float | None = None
    since: int = 0

    def after(self, spec: StopSpec, number: int, value: float | None) -> "BestRound":
        """Return what is known after one more validation; itself where that round was looked at before.

        Args:
            spec: of the study.
            number: the round, 1-based, whose model was validated.
            value: its metric; None: undefined, as where a class is absent.
        """
        if number <= self.seen:
            return self
        if value is None:
            return BestRound(number, self.round, self.value, self.since)
        sign = -1 if spec.metric == "brier" else 1
        if self.value is None or sign * value > sign * self.value:
            return BestRound(number, number, value, 0)
        return BestRound(number, self.round, self.value, self.since + 1)

    def ends(self, spec: StopSpec | None) -> bool:
        """Tell whether the study ends by this."""
        return spec is not None and self.since >= spec.patience

    def content(self) -> dict[str, Any]:
        """Return it for a checkpoint's header."""
        return asdict(self)
