"""Many trials of two worlds: which statistic tells them apart best, and what that proves of ε.

Some trials only look: in every scenario as many with the patient as without. The scenario and the statistic that told
the worlds apart best are kept, with their threshold, and nothing else is looked at in the trials that follow: each is
of either world by a fair coin of its own, and the auditor guesses which. All trials together are one mechanism with one
canary a trial, so that right guesses prove what they prove in `melfed.simulations.audit.bound`. Since the choice was
made on other trials, the many statistics cost the proof nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from melfed.client.privacy.plan import privacy_of
from melfed.common.progress import Progress
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit.bound import lower_bound, provable
from melfed.simulations.audit.statistics import Observation, Statistic, choose
from melfed.simulations.audit.worlds import Scenario, scenarios

LOOKS: Final = 6
"""Trials of each world and scenario that only look; as many again of the best two scenarios."""
FINALISTS: Final = 2
FEWEST_TRIALS, TRIALS_A_CHANCE = 120, 12
"""Trials that prove: more where a higher ε takes more to be refuted, so that some wrong guesses are forgiven."""


_Seen = tuple[list[Observation], list[Observation]]


@dataclass(frozen=True)
class Look:
    """The best statistic of a scenario, on the trials that only looked.

    Attributes:
        scenario, statistic: their names.
        right: the fraction of those trials that it tells rightly; some luck is in it.
    """

    scenario: str
    statistic: str
    right: float


@dataclass(frozen=True)
class WorldsAudit:
    """What the trials found.

    Attributes:
        claimed: ε of everything that a clinic answers, by its policy and ledger.
        delta: at which.
        bound: the ε that it exceeds, with probability `confidence`.
        provable: the bound if every guess had been right.
        looks: of each scenario, the best first; none comes after one that never errs.
        scenario, statistic: what was kept.
        trials, correct: how many proved, and how many guesses were right.
    """

    claimed: float
    delta: float
    bound: float
    provable: float
    confidence: float
    looks: tuple[Look, ...]
    scenario: str
    statistic: str
    trials: int
    correct: int

    @property
    def exceeded(self) -> bool:
        """Whether the claim is refuted."""
        return self.bound > self.claimed


def trials_for(claimed: float) -> int:
    """Return how many trials prove."""
    return max(FEWEST_TRIALS, math.ceil(TRIALS_A_CHANCE * math.exp(claimed)))


def audit_worlds(
    study: StudyProtocol,
    epsilon: float,
    coins: np.random.Generator,
    folder: Path,
    *,
    confidence: float,
    trials: int | None = None,
    looks: int | None = None,
    on_progress: Progress | None = None,
) -> WorldsAudit:
    """Ask clinics with and without a patient, as often as it takes to refute a claim that is wrong.

    Args:
        study: with a privacy section.
        epsilon: that the hostile study states and the clinic's policy allows: what is claimed.
        coins: decides which world each trial is of.
        folder: where the clinics are made; best in memory.
        confidence: of the bound.
        trials: how many prove; None: `trials_for`.
        looks: how many of each world and scenario only look; None: `LOOKS`.
        on_progress: called with (trials done, all).

    Raises:
        StudyError: the study has no privacy section, or cannot be run at this ε.
    """
    delta, trials, looks = privacy_of(study).delta, trials or trials_for(epsilon), looks or LOOKS
    with scenarios(study, epsilon, folder) as makers:
        all_trials, done = 2 * looks * (len(makers) + FINALISTS) + trials, 0

        def trial(scenario: Scenario, included: bool, statistic: str | None = None) -> Observation:
            nonlocal done
            seen = scenario.trial(included, statistic)
            done += 1
            if on_progress:
                on_progress(done, all_trials)
            return seen

        def look(scenario: Scenario, seen: _Seen) -> tuple[Scenario, _Seen, Statistic]:
            for _ in range(looks):
                for included, observations in zip((False, True), seen, strict=True):
                    observations.append(trial(scenario, included))
            return scenario, seen, choose(*seen)[0]

        looked: list[tuple[Scenario, _Seen, Statistic]] = []
        for make in makers:
            looked.append(look(make(), ([], [])))
            if math.isinf(looked[-1][2].gap):
                # Nothing could tell the worlds apart better.
                break
        looked = _best(looked)
        if not math.isinf(looked[0][2].gap):
            again = [look(scenario, seen) for scenario, seen, _ in looked[:FINALISTS]]
            looked = _best(again) + looked[FINALISTS:]
        scenario, _, statistic = looked[0]
        worlds = [bool(coin) for coin in coins.integers(0, 2, trials)]
        correct = sum(statistic.guess(trial(scenario, world, statistic.name)) == world for world in worlds)
        return WorldsAudit(
            claimed=epsilon,
            delta=delta,
            bound=lower_bound(trials, trials, correct, delta, confidence),
            provable=provable(trials, trials, delta, confidence),
            confidence=confidence,
            looks=tuple(Look(scenario.name, best.name, best.right) for scenario, _, best in looked),
            scenario=scenario.name,
            statistic=statistic.name,
            trials=trials,
            correct=correct,
        )


def _best(looked: Sequence[tuple[Scenario, _Seen, Statistic]]) -> list[tuple[Scenario, _Seen, Statistic]]:
    return sorted(looked, key=lambda item: (-item[2].gap, -item[2].right))
