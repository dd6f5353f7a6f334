"""What is told of a finished run besides its results: whether it diverged, and the steps that it took."""

import math
from collections.abc import Iterator, Mapping, Sequence

from melfed.common.study.in_force import idle_keys
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import whole_run
from melfed.server.runs.counts import Counts
from melfed.server.runs.outcome import ChosenRound
from melfed.server.runs.summary import RoundSummary

RISE = 100.0
"""A training loss that has risen by so much is no noise of small batches."""
ALL = "all"
"""Whose steps those of the central baseline are."""


def planned_steps(
    study: StudyProtocol, clinics: Mapping[str, Counts], chosen: Mapping[str, ChosenRound] | None = None
) -> dict[str, int]:
    """Return how many optimiser steps the whole run takes, by clinic; of the central baseline under `ALL`.

    Args:
        study: what is run.
        clinics: what each says of its data.
        chosen: of a study that stops early, as `Outcome.chosen`: what was not trained is not counted.
    """
    images = {name: counts.of("train", "images") for name, counts in clinics.items()}
    if study.federation.mode == "central":
        images = {ALL: sum(images.values())}
    trained = {name: found.trained for name, found in (chosen or {}).items()}
    rounds = {name: trained.get(name, trained.get("", study.federation.rounds)) for name in images}
    return {name: whole_run(count, study, rounds[name]) for name, count in images.items()}


def warnings_of(study: StudyProtocol, rounds: Sequence[RoundSummary], steps: Mapping[str, int]) -> tuple[str, ...]:
    """Return a line for each sign that a run's numbers are not to be trusted.

    Args:
        study: what was run.
        rounds: all of the run; those of a private study tell no loss.
        steps: as `planned_steps`.
    """
    losses = [(row.round, row.train_loss) for row in rounds if row.train_loss is not None]
    return (*_not_finite(rounds, losses), *_risen(losses, study.training.positive_weight), *_cold(study, steps))


def _not_finite(rounds: Sequence[RoundSummary], losses: Sequence[tuple[int, float]]) -> Iterator[str]:
    for number, loss in losses:
        if not math.isfinite(loss):
            yield f"the training loss of round {number} is not finite; {_CURE}"
            return
    for row in rounds:
        for name, reason in row.failed.items():
            if "training loss is" in reason:
                yield f"round {row.round} went on without {name}: {reason}"
                return


_CURE = "the model is worth nothing: lower training.learning_rate or federation.server_learning_rate"


def _risen(losses: Sequence[tuple[int, float]], positive_weight: float) -> Iterator[str]:
    """Warn of the highest loss where it is `RISE` times the lowest before it, and what saying 0.5 always would give."""
    undecided = math.log(2) * max(positive_weight, 1.0)
    lowest, where = undecided, "an undecided model"
    worst: tuple[float, str] | None = None
    for number, loss in losses:
        if undecided < loss < math.inf and loss >= RISE * lowest and (worst is None or loss > worst[0]):
            worst = loss, f"rose from {lowest:.3g} ({where}) to {loss:.4g} (round {number})"
        if loss < lowest:
            lowest, where = loss, f"round {number}"
    if worst is not None:
        yield f"the training loss {worst[1]}; {_CURE}"


def _cold(study: StudyProtocol, steps: Mapping[str, int]) -> Iterator[str]:
    """Warn of whoever never reaches the stated learning rate, where there is one."""
    if "training.learning_rate" in idle_keys(study):
        return
    warmup = study.training.warmup_steps
    cold = sorted(name for name, taken in steps.items() if taken <= warmup)
    if warmup and cold:
        named = "the run" if study.federation.mode == "central" else ", ".join(cold[:3])
        more = f" and {len(cold) - 3} others" if len(cold) > 3 else ""
        most = max(steps[name] for name in cold)
        yield (
            f"training.learning_rate is never reached by {named}{more}: at most {most} steps in the whole run, and "
            f"training.warmup_steps is {warmup}; lower it, or train for more rounds"
        )
