"""What a federation brought: whom the model has not learnt from, what each clinic gained, and what that cost it in ε.

`absences` and `gains` are the figures, by a run's summary alone; `headlines` are the report's first lines, and `table`
is that of the section.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from melfed.common.metrics.intervals import UNDEFINED, Interval, square_and_add
from melfed.server.report.words import counted, limits_of, value_of
from melfed.server.runs.outcome import LATE
from melfed.server.runs.summary import ClinicSummary, RoundSummary, RunSummary

Kind = Literal["declined", "late", "failed"]
_WORDS: dict[Kind, str] = {"declined": "declined", "late": "did not answer in time", "failed": "failed"}
LISTED = 8
"""Clinics that a line names; a table has all."""
LONGEST_REASON = 120


@dataclass(frozen=True)
class Absence:
    """Rounds in which a clinic was asked, and the model has learnt nothing from it.

    Attributes:
        clinic: its name.
        kind: it kept to its own policy; its answer did not come in time; or anything else.
        rounds: which, ascending.
        reason: the last one that was given.
    """

    clinic: str
    kind: Kind
    rounds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Gain:
    """What one clinic has of the federation, on its own test part.

    Attributes:
        clinic: its name.
        alone: AUROC of the model that it has trained alone.
        together: AUROC of the federation's.
        gain: the difference. Both are of the same patients, and mostly err alike: as they are taken for independent,
            its interval is too wide rather than too narrow.
        epsilon: total of its ledger, the model of its own included; None without privacy, or without bound.
    """

    clinic: str
    alone: Interval
    together: Interval
    gain: Interval
    epsilon: float | None


def absences(rounds: Sequence[RoundSummary]) -> tuple[Absence, ...]:
    """Return who was asked in vain, by clinic and kind; whom nobody asked, as in a cohort of some, is not there."""
    found: dict[tuple[str, Kind], list[tuple[int, str]]] = {}
    for row in rounds:
        for clinic, reason in row.declined.items():
            found.setdefault((clinic, "declined"), []).append((row.round, reason))
        for clinic, reason in row.failed.items():
            kind: Kind = "late" if reason.startswith(LATE) else "failed"
            found.setdefault((clinic, kind), []).append((row.round, reason))
    return tuple(
        Absence(clinic, kind, tuple(sorted({number for number, _ in told})), told[-1][1])
        for (clinic, kind), told in sorted(found.items())
    )


def gains(summary: RunSummary) -> tuple[Gain, ...]:
    """Return what each clinic gained, of those that have told of a model of their own."""
    spent = {clinic.name: clinic.epsilon for clinic in summary.privacy.clinics} if summary.privacy else {}
    return tuple(_gain(clinic, spent.get(clinic.name)) for clinic in summary.clinics if clinic.local is not None)


def headlines(summary: RunSummary) -> list[str]:
    """Return the report's first lines: whom the model has not learnt from, and what the federation brought."""
    return [*_unlearnt(summary), *_brought(summary)]


def lines(summary: RunSummary) -> list[str]:
    """Return the same for the terminal, with the least and the largest gain."""
    known = [(one.gain.value, one) for one in gains(summary) if one.gain.value is not None]
    ends = [min(known, key=_value)[1], max(known, key=_value)[1]] if known else []
    told = " to ".join(f"{_signed(one.gain)} at {one.clinic}" for one in dict.fromkeys(ends))
    return [*headlines(summary), *([f"Gain in AUROC: {told} (95 % intervals)."] if told else [])]


def _value(told: tuple[float, Gain]) -> float:
    return told[0]


def table(summary: RunSummary) -> list[tuple[str, str, str, str, str]]:
    """Return a row a clinic: name, AUROC alone and together, gain, and ε."""
    return [
        (
            found.clinic,
            _shown(found.alone),
            _shown(found.together),
            _signed(found.gain),
            "–" if found.epsilon is None else f"{found.epsilon:.3g}",
        )
        for found in gains(summary)
    ]


def in_rounds(numbers: Sequence[int], of: int) -> str:
    """Return some of so many rounds in words.

    >>> in_rounds((1, 2, 3, 5), 9), in_rounds((4,), 9), in_rounds((1, 2), 2)
    ('rounds 1 to 3 and 5', 'round 4', 'all 2 rounds')
    """
    if len(numbers) == of > 1:
        return f"all {of} rounds"
    told = []
    for _, members in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in members]
        told.append(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}")
    listed = told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"
    return f"{'round' if len(numbers) == 1 else 'rounds'} {listed}"


def _unlearnt(summary: RunSummary) -> list[str]:
    """Return a line of those that the model has learnt nothing from, and one of those that were missing at times."""
    rounds = [row for row in summary.rounds if row.answered or row.failed or row.declined]
    learnt = {clinic for row in rounds for clinic in row.answered}
    found = absences(rounds)
    never = [one for one in found if one.clinic not in learnt]
    at_times = [one for one in found if one.clinic in learnt]
    return [
        *_line("The model has learnt nothing from", never, len(rounds)),
        *_line("The model has not learnt in every round from", at_times, len(rounds)),
    ]


def _line(begin: str, found: Sequence[Absence], rounds: int) -> list[str]:
    if not found:
        return []
    clinics = list(dict.fromkeys(one.clinic for one in found))
    told = []
    for clinic in clinics[:LISTED]:
        why = [
            f"{_WORDS[one.kind]} in {in_rounds(one.rounds, rounds)}: {_short(one.reason)}"
            for one in found
            if one.clinic == clinic
        ]
        told.append(f"{clinic} ({'; '.join(why)})")
    more = f", and {counted(len(clinics) - LISTED, 'clinic', 'clinics')} more" if len(clinics) > LISTED else ""
    return [f"{begin} {', '.join(told)}{more}."]


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 1]}…"


def _brought(summary: RunSummary) -> list[str]:
    found = gains(summary)
    if not found:
        return []
    known = [one for one in found if one.gain.value is not None]
    better = [one for one in known if (one.gain.value or 0.0) > 0]
    sure = [one for one in known if (one.gain.low or 0.0) > 0]
    said = f"Of {counted(len(found), 'clinic', 'clinics')} with a model trained alone beside it, "
    if not known:
        return [f"{said}none has test patients enough to tell what the federation brought it."]
    said += (
        f"{len(better)} {'has' if len(better) == 1 else 'have'} a higher AUROC with the federation's on its own test "
    )
    said += f"part ({len(sure)} beyond its 95 % interval)"
    if len(known) < len(found):
        said += f"; of {len(found) - len(known)} that cannot be told"
    costs = [one.epsilon for one in found if one.epsilon is not None]
    cost = f" It cost a clinic's patients ε {max(costs):.3g} at most." if costs else ""
    return [f"{said}.{cost}"]


def _gain(clinic: ClinicSummary, epsilon: float | None) -> Gain:
    alone = clinic.local.auroc if clinic.local is not None else UNDEFINED
    return Gain(clinic.name, alone, clinic.test.auroc, _difference(clinic.test.auroc, alone), epsilon)


def _difference(one: Interval, other: Interval) -> Interval:
    if one.value is None or one.low is None or one.high is None:
        return UNDEFINED
    if other.value is None or other.low is None or other.high is None:
        return UNDEFINED
    ours, theirs = (one.value - one.low, one.high - one.value), (other.high - other.value, other.value - other.low)
    low, high = square_and_add(one.value - other.value, ours, theirs)
    return Interval(value=one.value - other.value, low=max(low, -1.0), high=min(high, 1.0))


def _shown(interval: Interval) -> str:
    limits = limits_of(interval)
    return f"{value_of(interval)} ({limits})" if limits else value_of(interval)


def _signed(interval: Interval) -> str:
    if interval.value is None or interval.low is None or interval.high is None:
        return "undefined"
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"
