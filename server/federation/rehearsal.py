"""What quorum and deadline suit a study's clinics, by how long they say that a round takes.

The defaults hurt others: a quorum of 1 ends a night's run for one clinic's hiccup, and a short deadline makes slow
clinics work in vain. What clinics say is timed on synthetic images, and coarse: a power of two of minutes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from melfed.common.study.protocol import FederationSpec
from melfed.server.aggregation import robust

MARGIN: Final = 4
"""A clinic may have twice the patients that the study guesses, or images, and its machine other work to do."""
SHORTEST_SECONDS: Final = 600.0
LONGEST_SECONDS: Final = 7 * 86_400.0
ABSENT: Final = 0.2
"""Share of the clinics that may be away."""


@dataclass(frozen=True)
class Proposal:
    """Values for a study's `federation`, and why."""

    quorum: float
    quorum_reason: str
    deadline_seconds: float
    deadline_reason: str


def propose(spec: FederationSpec, minutes: Mapping[str, int], clinics: int) -> Proposal | None:
    """Return quorum and deadline for a study, by what its clinics told; None where none of them did.

    Args:
        spec: the study's.
        minutes: a round at most, by clinic, of those that told.
        clinics: how many the study is for.
    """
    if not minutes:
        return None
    needed, reason = _needed(spec, robust.cohort_size(spec, clinics))
    slowest = max(sorted(minutes), key=lambda name: minutes[name])
    wanted = max(MARGIN * 60.0 * minutes[slowest], SHORTEST_SECONDS)
    if wanted > LONGEST_SECONDS:
        why = f"the longest there is; {slowest} may need {minutes[slowest]} min a round: let it train less in each"
    elif wanted > MARGIN * 60.0 * minutes[slowest]:
        why = f"the slowest, {slowest}, needs {minutes[slowest]} min at most; so long a machine may take to start again"
    else:
        why = f"{MARGIN} times the slowest, {slowest} ({minutes[slowest]} min at most): a clinic may have more images"
    share = _share(needed, robust.cohort_size(spec, clinics))
    return Proposal(share, reason, min(wanted, LONGEST_SECONDS), why)


def _needed(spec: FederationSpec, asked: int) -> tuple[int, str]:
    """Return how many of the clinics asked must answer a round, and why."""
    least = min(robust.replies_needed(spec), asked)
    if asked < 3:
        return asked, "of so few nobody can be missed: one clinic's update alone would be the model"
    wanted = min(asked - 1, math.ceil((1 - ABSENT) * asked))
    if least > wanted:
        return least, f"{least} of {asked}: federation.robust {spec.robust} needs so many"
    away = asked - wanted
    who = "one that is away does" if away == 1 else f"{away} that are away do"
    return wanted, f"{wanted} of {asked}: {who} not end the run"


def _share(needed: int, asked: int) -> float:
    """Return a quorum of two decimals, where there is one, by which just so many are needed."""
    short = math.floor(100 * needed / asked) / 100
    return short if short > 0 and math.ceil(short * asked - 1e-9) == needed else needed / asked
