"""The check of neighbours sees each of the seven holes that melfed once had, and nothing where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from melfed.client.data.split import part_of
from melfed.common.tensors import Tensors
from tests.mutants import CELL, MUTANTS
from tests.neighbours.check import Neighbours, neighbours
from tests.neighbours.clinics import NAME, SECRET, SPEC, in_part, patient
from tests.neighbours.models import alike, at_the_edge, ordinary, overflowing
from tests.neighbours.questions import Coordinator, model_of, whole_study
from tests.neighbours.studies import bystanders, study_of, training_crowd

CROWD = training_crowd(CELL + CELL // 2 - 1)
"""One patient fewer than those that round to two cells."""
ONE = in_part("train", lambda name: patient(name, [7], 1), first="A")
"""By name before all others, as whoever counts patients sees at once."""
IMAGES = sum(len(who.pictures) for who in (*CROWD, ONE) if part_of(who.unit, NAME, SPEC, SECRET) == "train")


def whole(folder: Path) -> Neighbours:
    """All questions, with a model for a hole among them; the patient makes the images as many as the study wants."""
    study = study_of(
        partition={"minimum_images": IMAGES}, model={"metadata": True}, training={"positive_weight": 100.0}
    )
    own = model_of(study)
    models = [overflowing(own), ordinary(own, 2), at_the_edge(own, 3.6), ordinary(own)]
    return neighbours(folder, CROWD, ONE, lambda asked: whole_study(asked, study, models))


def wide(folder: Path) -> Neighbours:
    """A convolution of many weights, and a patient who is the only one in training."""
    study = study_of(model={"backbone": "squeezenet1_1"}, privacy={"steps": 1}, training={"augment": False})
    models: list[Tensors] = [alike(model_of(study), size) for size in (0.01, 0.025)]

    def ask(coordinator: Coordinator) -> None:
        for number, model in enumerate(models):
            coordinator.train(study, model, 1, f"run {number}")

    return neighbours(folder, bystanders(2), ONE, ask)


SEEN_BY: dict[str, Callable[[Path], Neighbours]] = {
    name: wide if name == "float32_norms" else whole for name in MUTANTS
}


@pytest.mark.parametrize("ask", [whole, wide])
def test_nothing_is_seen_where_there_is_no_hole(ask: Callable[[Path], Neighbours], tmp_path: Path) -> None:
    asked = ask(tmp_path)
    assert asked.verdict.faults == []
    assert {release.kind for release in asked.with_.releases} >= {"counts", "training"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("infinite_norm", "training): differs by inf"),
        ("split_by_counts", "training): differs by 1."),
        ("rounded_counts", "describe run: what leaves differs"),
        ("subnormal_factor", "training): differs by 1."),
        ("float32_norms", "training): differs by 1.0000"),
        ("refusals_by_data", "releases without"),
        ("called_off_again", "questions looked at patients"),
    ],
)
def test_each_hole_is_seen(name: str, words: str, tmp_path: Path) -> None:
    with MUTANTS[name]():
        faults = SEEN_BY[name](tmp_path).verdict.faults
    assert any(words in fault for fault in faults), faults


def test_these_are_all_holes() -> None:
    assert len(MUTANTS) == 7
