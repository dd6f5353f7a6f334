"""The check of neighbours sees each of the seven holes that melfed once had, and nothing where there is none."""

from pathlib import Path

import numpy as np
import pytest

from client.parts import part_of
from common.protocol import StudyProtocol
from common.tensors import Tensors
from tests.mutants import CELL, MUTANTS
from tests.neighbours.check import Verdict, neighbours
from tests.neighbours.clinics import NAME, SECRET, SPEC, in_part, patient
from tests.neighbours.models import at_the_edge, overflowing
from tests.neighbours.questions import model_of, whole_study
from tests.neighbours.studies import study_of, training_crowd

CROWD = training_crowd(CELL + CELL // 2 - 1)
"""One patient fewer than those that round to two cells."""
ONE = in_part("train", lambda name: patient(name, [7, 8], 1))
IMAGES = sum(len(who.pictures) for who in (*CROWD, ONE) if part_of(f"patient:{who.name}", NAME, SPEC, SECRET) == "train")
STUDY = study_of(
    partition={"minimum_images": IMAGES}, model={"metadata": True}, training={"positive_weight": 100.0, "augment": False}
)


def models(study: StudyProtocol) -> list[Tensors]:
    """One for each hole in the gradients, and an ordinary one."""
    own = model_of(study)
    random = np.random.default_rng(1)
    ordinary = {name: (t + random.normal(0, 0.1, t.shape)).astype(np.float32) for name, t in own.items()}
    return [overflowing(own), at_the_edge(own, 3.0), at_the_edge(own, 4.4), ordinary]


def verdict(folder: Path) -> Verdict:
    tensors = models(STUDY)
    return neighbours(folder, CROWD, ONE, lambda coordinator: whole_study(coordinator, STUDY, tensors)).verdict


def test_nothing_is_seen_where_there_is_no_hole(tmp_path: Path) -> None:
    assert verdict(tmp_path).faults == []


@pytest.mark.parametrize("name", MUTANTS)
def test_each_hole_is_seen(name: str, tmp_path: Path) -> None:
    with MUTANTS[name]():
        assert verdict(tmp_path).faults
