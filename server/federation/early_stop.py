"""Early stopping of a federated run: what a validation says of the round whose model it is of, and what is chosen."""

from dataclasses import replace

from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.study.protocol import FederationSpec, StopSpec
from melfed.common.study.stop import BestRound
from melfed.server.runs.checkpoints import Checkpoint
from melfed.server.runs.outcome import ChosenRound


def best_of(state: Checkpoint) -> BestRound:
    """Return what the validations up to a state say; nothing of a study that does not stop early."""
    return state.stop.get("", BestRound())


def metric_of(spec: StopSpec, validation: Histogram) -> float | None:
    """Return what a study stops by; None where it is undefined, as where a class is absent or the noise hides it."""
    metrics = metrics_of(validation)
    if spec.metric == "brier":
        return metrics.brier
    value: float | None = getattr(metrics, spec.metric).value
    return value


def observed(spec: FederationSpec, state: Checkpoint, number: int, validation: Histogram | None) -> Checkpoint:
    """Return the state with what a validation says.

    Args:
        spec: says whether the study stops early, and by what.
        state: whose model is that after round `number`.
        number: 1-based.
        validation: pooled over the clinics that answered; None where none was due.
    """
    if spec.stop is None or validation is None or number < 1:
        return state
    before = best_of(state)
    after = before.after(spec.stop, number, metric_of(spec.stop, validation))
    best = state.model if after.round == number and after.round != before.round else state.best
    return replace(state, best=best, stop={"": after})


def chosen(state: Checkpoint) -> ChosenRound:
    """Return which round's model a run ends with: the last one's where no validation was defined."""
    best = best_of(state)
    return ChosenRound(best.round or state.round, best.value, state.round)


def in_words(spec: StopSpec, found: ChosenRound, planned: int) -> str:
    """Return what was chosen, in one line."""
    after = f"stopped after round {found.trained} of {planned}: " if found.trained < planned else ""
    return f"federation.stop: {after}no round has a better {spec.metric} than round {found.round}, whose model is taken"
