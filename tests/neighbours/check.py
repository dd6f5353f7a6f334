"""What may differ between two worlds of which one has a patient more: releases by their sensitivity, nothing else."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.neighbours.clinics import Patient, write_clinic
from tests.neighbours.coupling import Kind, World, coupled
from tests.neighbours.questions import Coordinator, asked

SLACK = 1e-6
"""By how much one share may be longer than C, relative to it: rounding of its own factor."""
ROUNDING = 2e-7
"""What the others' rounding may add to a sum of a step, for each patient that both worlds hold, in C."""

Ask = Callable[[Coordinator], None]


@dataclass
class Verdict:
    """What a comparison found.

    Attributes:
        faults: what one patient changed though it may not; one line each.
        worst: of each kind of release, the largest difference over its sensitivity.
    """

    faults: list[str] = field(default_factory=list)
    worst: dict[Kind, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The largest of all."""
        return max(self.worst.values(), default=0.0)


def compare(without: World, with_: World, shared: int) -> Verdict:
    """Compare the world without a patient, which came first, and the world with that one.

    Args:
        without: asked first.
        with_: asked the same, with the first one's releases in place of its own.
        shared: how many patients both have.
    """
    verdict = Verdict()
    for place, (one, other) in enumerate(zip(without.releases, with_.releases, strict=False)):
        where = f"release {place} ({other.kind})"
        if (one.kind, one.public) != (other.kind, other.public):
            verdict.faults.append(f"{where}: another mechanism: {_first_difference(one.public, other.public)}")
            break
        if not (one.covered and other.covered):
            verdict.faults.append(f"{where}: noise does not cover it")
        distance = float(np.linalg.norm(other.exact - one.exact)) / one.sensitivity
        distance = distance if math.isfinite(distance) else math.inf
        verdict.worst[one.kind] = max(verdict.worst.get(one.kind, 0.0), distance)
        most = 1 + SLACK + shared * ROUNDING if one.kind == "training" else 1.0
        if not distance <= most:
            verdict.faults.append(f"{where}: differs by {distance:.9g} of its sensitivity")
    if len(without.releases) != len(with_.releases):
        verdict.faults.append(f"{len(without.releases)} releases without, {len(with_.releases)} with the patient")
    verdict.faults += _of_leaving(without.leaving, with_.leaving)
    verdict.faults += [fault for world in (without, with_) for fault in _unpaid(world)]
    if without.charged != with_.charged:
        verdict.faults.append(f"charges differ: {without.charged} and {with_.charged}")
    return verdict


def _of_leaving(without: Sequence[tuple[str, bytes]], with_: Sequence[tuple[str, bytes]]) -> list[str]:
    if [label for label, _ in without] != [label for label, _ in with_]:
        return [f"other answers: {Counter(label for label, _ in without)} and {Counter(label for label, _ in with_)}"]
    return [
        f"{label}: what leaves differs: {_around(one, other)} without, {_around(other, one)} with the patient"
        for (label, one), (_, other) in zip(without, with_, strict=True)
        if one != other
    ]


def _around(mine: bytes, theirs: bytes) -> str:
    """Return the bytes where two messages part."""
    place = next((k for k, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), len(theirs))
    return f"{len(mine)} bytes, {mine[max(place - 40, 0) : place + 40]!r}"


def _unpaid(world: World) -> list[str]:
    """Say which patients were looked at for nothing: every question, and every release, has a charge of its own."""
    if world.free:
        return []
    rows = Counter(purpose for purpose, *_ in world.charged)
    paid_for = ("training", "moments", "evaluation", "subgroups", "baseline")
    if len(world.begun) > sum(rows[purpose] for purpose in paid_for):
        return [f"{len(world.begun)} questions looked at patients, for {dict(rows)} charges"]
    released = Counter(release.kind for release in world.releases)
    steps = sum(int(str(charge[2])) for charge in world.charged if charge[0] == "training")
    paid: dict[Kind, int] = {
        "training": steps,
        "moments": rows["moments"],
        "histograms": rows["evaluation"] + rows["baseline"],
        "subgroups": rows["subgroups"],
        "counts": rows["counts"],
    }
    return [
        f"{released[kind]} releases of {kind} for {most} charged"
        for kind, most in paid.items()
        if released[kind] > most
    ]


def _first_difference(one: tuple[object, ...], other: tuple[object, ...]) -> str:
    return next((f"{a} and {b}" for a, b in zip(one, other, strict=False) if a != b), f"{len(one)} and {len(other)}")


@dataclass(frozen=True)
class Neighbours:
    """Two clinics' worlds after the same questions."""

    without: World
    with_: World
    verdict: Verdict


def neighbours(
    folder: Path,
    crowd: Sequence[Patient],
    one: Patient,
    ask: Ask,
    *,
    quick: bool = True,
    free: bool = False,
    **sections: object,
) -> Neighbours:
    """Ask two clinics the same: one of a crowd, and one of the crowd and one patient more.

    Args:
        folder: of the kits; new.
        crowd: whom both have.
        one: whom the second one has besides, in the table before all others.
        ask: the questions.
        quick: as `coupled`.
        free: as `World`.
        sections: of `clinic.yaml`.
    """
    worlds: list[World] = []
    for name, patients in (("without", crowd), ("with", (one, *crowd))):
        world = World(first=worlds[0] if worlds else None, one=one.unit, free=free)
        with coupled(world, quick=quick):
            config = write_clinic(folder / name, patients, **sections)
            with asked(config, world) as coordinator:
                ask(coordinator)
        worlds.append(world)
    return Neighbours(*worlds, compare(*worlds, shared=len(crowd)))
