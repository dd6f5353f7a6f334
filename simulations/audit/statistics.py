"""What an auditor makes of a clinic's answers: many numbers and words, and which of them tells two worlds apart best.

Nothing is left out that a message holds: which fields are there, every number, every text, how many bytes it has, and
of each tensor its sum, its length, how many of its values are exactly zero or no number. Which of all these is looked
at in the end is chosen on trials of its own (`choose`), and proven on others: so however many there are, the proof pays
for one.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
from google.protobuf import json_format

from melfed.simulations.audit.door import Arrays, Seen

Floats = npt.NDArray[np.float64]
Value = float | str
Observation = Mapping[str, Value]
"""What one trial showed, by the statistic's name; one that is missing there was not told."""

ABSENT: Final = "absent"
RANDOM: Final = ("head",)
"""Fields whose text is new every time: a hash over times of day."""
_TINY: Final = 1e-300
_PLAIN: Final = ("kind", "fields", "bytes", "counts", "exact zeros", "dot product", "shift")
"""Of equally telling statistics, which are named before others."""


@dataclass(frozen=True)
class Statistic:
    """A guess about the world, by one thing that is seen.

    Attributes:
        name: of the thing.
        words: the worlds that texts stand for: 1 with the patient, 0 without; empty for a number.
        threshold: of a number.
        above: the world of numbers above it.
        right: the fraction of the trials it was chosen on that it guesses rightly.
        gap: how far the worlds lie apart, in standard deviations, or that many that would be guessed as often rightly;
            infinite where nothing varies.
    """

    name: str
    words: Mapping[str, bool]
    threshold: float
    above: bool
    right: float
    gap: float

    def guess(self, seen: Observation) -> bool:
        """Return whether the patient was there."""
        value = seen.get(self.name, ABSENT)
        if isinstance(value, str):
            return self.words.get(value, False)
        return (value > self.threshold) == self.above


def observe(
    answers: Mapping[str, Seen], sent: Mapping[str, Arrays], direction: Mapping[str, Floats] | None = None
) -> dict[str, Value]:
    """Return everything that one trial's answers show.

    Args:
        answers: by what was asked.
        sent: the model that went with each question.
        direction: of unit length; where the patient would move the sum of a step, by tensor.
    """
    seen: dict[str, Value] = {}
    projections, totals = [], []
    messages: dict[bytes, str] = {}
    for label, answer in answers.items():
        seen |= {f"{label}: {name}": value for name, value in _of_message(answer).items()}
        moved = _moved(answer, sent.get(label, {}))
        for name, array in moved.items():
            told = {**_of_array(array), "exact zeros": float((answer.arrays[name] == 0).sum())}
            seen |= {f"{label}: {what} of {name}": value for what, value in told.items()}
        # The same bytes again tell nothing new, and other bytes would.
        content = answer.message.SerializeToString(deterministic=True)
        seen[f"{label}: repeats"] = messages.setdefault(content, label)
        learnt = {name: array for name, array in moved.items() if name.startswith("tensors/")}
        if learnt:
            totals.append(math.fsum(float(np.nan_to_num(array).sum()) for array in learnt.values()))
            if direction:
                projections.append(
                    math.fsum(float((d * learnt[f"tensors/{name}"]).sum()) for name, d in direction.items())
                )
    if totals:
        seen["shift of the sum"] = math.fsum(totals)
    if projections:
        seen["dot product with what the patient would add"] = math.fsum(projections)
    return seen | _over_questions(seen)


def choose(without: Sequence[Observation], including: Sequence[Observation]) -> list[Statistic]:
    """Return all statistics, the one that told these trials apart best first."""
    names = sorted({name for seen in (*without, *including) for name in seen})
    found = [_fit(name, without, including) for name in names]
    return sorted(found, key=lambda statistic: (-statistic.gap, -statistic.right, *_plainness(statistic.name)))


def _plainness(name: str) -> tuple[int, bool, str]:
    """Return what sorts statistics that tell as much: plain words first, and of one answer before those of several."""
    rank = next((place for place, word in enumerate(_PLAIN) if word in name), len(_PLAIN))
    return rank, ": " not in name, name


def _fit(name: str, without: Sequence[Observation], including: Sequence[Observation]) -> Statistic:
    out, inside = ([seen.get(name, ABSENT) for seen in world] for world in (without, including))
    trials = len(out) + len(inside)
    texts = {str(value) for value in (*out, *inside) if isinstance(value, str)}
    words = {text: inside.count(text) * len(out) > out.count(text) * len(inside) for text in texts}
    low, high = (np.array([v for v in world if not isinstance(v, str)], np.float64) for world in (out, inside))
    right = sum(words[v] for v in inside if isinstance(v, str)) + sum(not words[v] for v in out if isinstance(v, str))
    above, threshold, gap = len(high) > 0, -math.inf, 0.0
    if len(low) and len(high):
        above = bool(np.median(high) >= np.median(low))
        threshold = float(np.median(high) / 2 + np.median(low) / 2)
        gap = _gap(low, high)
    right += int(((high > threshold) == above).sum() + ((low > threshold) != above).sum())
    told = math.inf if not gap and right == trials else 2 * NormalDist().inv_cdf(min(right / trials, 1 - 0.5 / trials))
    return Statistic(name, words, threshold, above, right / trials, max(gap, told))


def _gap(low: Floats, high: Floats) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        spread = float(np.sqrt((np.var(low) + np.var(high)) / 2))
        apart = abs(float(np.mean(high) - np.mean(low)))
    if not apart or not math.isfinite(apart):
        return 0.0
    return apart / spread if spread > _TINY else math.inf


def _of_message(answer: Seen) -> dict[str, Value]:
    fields = json_format.MessageToDict(answer.message, preserving_proto_field_name=True)
    flat = dict(_flat("", fields))
    told: dict[str, Value] = {
        "kind": type(answer.message).__name__,
        "fields": " ".join(sorted({*flat, *answer.arrays})),
        "bytes": float(answer.size),
    }
    # A failure's own kind takes the message's place; the hash's length is among the bytes.
    return told | {name: value for name, value in flat.items() if name.rpartition(".")[2] not in RANDOM}


def _flat(start: str, content: object) -> Iterable[tuple[str, Value]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _flat(f"{start}.{name}" if start else str(name), value)
    elif isinstance(content, list):
        yield start, " ".join(map(str, content))
    elif isinstance(content, bool | str):
        text = str(content)
        # Protobuf's JSON has whole numbers of 64 bits as text.
        yield start, float(text) if text.removeprefix("-").isdigit() and len(text) < 20 else text
    else:
        yield start, float(str(content))


def _moved(answer: Seen, sent: Arrays) -> dict[str, Floats]:
    """Return the arrays of an answer; of a model's tensors how far they moved, times the clinic's weight in the mean.

    A plain step moves them by the noisy sum over the weight, so this is the noisy sum, but for a known factor.
    """
    weight = float(getattr(answer.message, "weight", 1))
    moved = {}
    for name, array in answer.arrays.items():
        before = sent.get(name.removeprefix("tensors/")) if name.startswith("tensors/") else None
        after = np.asarray(array, np.float64)
        moved[name] = after if before is None else (np.asarray(before, np.float64) - after) * weight
    return moved


def _of_array(array: Floats) -> dict[str, Value]:
    finite = array[np.isfinite(array)]
    with np.errstate(over="ignore"):
        return {
            "sum": float(finite.sum()),
            "length": float(np.linalg.norm(finite)),
            "numbers that are none": float(array.size - finite.size),
            "size": float(array.size),
        }


def _over_questions(seen: Mapping[str, Value]) -> dict[str, Value]:
    """Return the smallest and the largest of each number that several answers of a trial tell."""
    told: dict[str, list[float]] = {}
    for name, value in seen.items():
        label, _, what = name.partition(": ")
        if what and isinstance(value, float):
            told.setdefault(f"{what} of all {label.split()[0]} answers", []).append(value)
    several = {name: values for name, values in told.items() if len(values) > 1}
    extremes = {"smallest": min, "largest": max}
    return {f"{word} {name}": which(values) for name, values in several.items() for word, which in extremes.items()}
