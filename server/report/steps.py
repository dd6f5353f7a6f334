"""Words of the report on what a run's training took, and on keys of its study that had no effect."""

from melfed.common.study.in_force import idle_values
from melfed.common.study.protocol import StudyProtocol
from melfed.server.report.words import count, counted
from melfed.server.runs.soundness import ALL
from melfed.server.runs.summary import RunSummary

_MODES = (
    "Each mode passes as often over the same training images, and that is the budget that federated, central and local "
    "runs of a study share. Steps are not shared: clinics take theirs side by side and are averaged after each round, "
    "the central baseline takes one after the other on batches of all clinics."
)


def steps(summary: RunSummary, study: StudyProtocol) -> list[tuple[str, str]]:
    """Return facts about the optimiser steps of a run; none of a run whose summary does not tell them."""
    if not summary.steps:
        return []
    fewest, most = min(summary.steps.values()), max(summary.steps.values())
    whose = "on the images of all clinics" if ALL in summary.steps and summary.mode == "central" else "at each clinic"
    taken = count(most) if fewest == most else f"{count(fewest)} to {count(most)}"
    planned = "up to where it stopped" if summary.stop else "as planned"
    warmup = study.training.warmup_steps
    words = f"{taken} {'step' if most == 1 else 'steps'} {whose} over the whole run, {planned}"
    words += f"; the learning rate rises over the first {warmup}." if warmup else "."
    known = [("Optimiser steps", words)]
    if study.privacy is None:
        ran = max((row.round for row in summary.rounds), default=0) if summary.stop else study.federation.rounds
        passes = study.training.local_epochs * ran
        times = "once" if passes == 1 else f"{passes:g} times"
        rounds = counted(ran, "round", "rounds")
        known.append(("Budget", f"Each training image is seen {times}, in {rounds}. {_MODES}"))
    return known


def idle(study: StudyProtocol) -> str:
    """Return the keys, with their values, that had no effect on the run; "" where all had."""
    return ", ".join(f"{key} ({value})" for key, value in idle_values(study).items())
