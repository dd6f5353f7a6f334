"""The ladder of a private study: from the public start to what would be had without privacy, and what each costs."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from melfed.common.metrics.intervals import UNDEFINED
from melfed.common.study.protocol import StudyProtocol
from melfed.server.report.privacy_words import ceiling
from melfed.server.runs.summary import Rung, RungName, RunSummary

WAYS: Final[Mapping[RungName, str]] = {
    "public": "Public start: the public run's model, unchanged",
    "one_round": "One round: a head solved from one release of each clinic",
    "rounds": "Gradient rounds",
    "no_privacy": "The same rounds without noise: no privacy",
}
"""From the least to the most."""
CAPTION: Final = (
    "The ladder: ways from the same public features to a model, on the clinics' test parts, with the ε of a clinic's "
    "patients that each costs and how often a clinic answers. Each is a run of its own; a simulation measures those "
    "that are missing with melfed-sim ladder RUN"
)


def answers(study: StudyProtocol) -> int:
    """Return how often a clinic answers in a run: moments, rounds, and the last evaluation."""
    moments = int(study.federation.asks_for_moments)
    return moments + (0 if study.federation.mode == "one_round" else study.federation.rounds) + 1


def own(summary: RunSummary, study: StudyProtocol) -> Rung:
    """Return the rung that a private run is itself."""
    noise, spent = (summary.privacy.noise_multiplier, summary.privacy.epsilon_spent) if summary.privacy else (0.0, None)
    name: RungName = "rounds" if noise else "no_privacy"
    if summary.mode == "one_round":
        name = "one_round"
    return Rung(name=name, auroc=summary.test.auroc, epsilon=spent, messages=answers(study))


def table(summary: RunSummary, study: StudyProtocol, measured: Sequence[Rung]) -> dict[str, Any]:
    """Return caption and rows of the ladder; the run itself stands above what was measured of the same name."""
    known = {rung.name: rung for rung in (*measured, own(summary, study))}
    began = " that begin at a solved head" if study.federation.asks_for_moments and summary.mode != "one_round" else ""
    rows = []
    for name, way in WAYS.items():
        rung, here = known.get(name), name == own(summary, study).name
        rows.append(
            {
                "way": f"{way}{began if name in {'rounds', 'no_privacy'} else ''}{' (this run)' if here else ''}",
                "auroc": rung.auroc if rung else UNDEFINED,
                "missing": "" if rung else "not measured",
                "epsilon": _epsilon(rung) if rung else "–",
                "messages": rung.messages if rung else "–",
            }
        )
    return {"caption": CAPTION, "rows": rows}


def _epsilon(rung: Rung) -> str:
    if rung.epsilon is None:
        return "no bound"
    return ceiling(rung.epsilon) if rung.epsilon else "0"
