"""Nobody who sees a clinic's subgroups can tell whether one patient was there, but for what their noise covers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

import melfed.client.privacy.noised_subgroups
from melfed.common.data.records import LesionRecord
from tests.neighbours.check import Neighbours, neighbours
from tests.neighbours.clinics import Patient, crowd, in_part, patient, renamed
from tests.neighbours.models import ordinary
from tests.neighbours.questions import model_of, whole_study
from tests.neighbours.situations import SITUATIONS, Situation
from tests.neighbours.studies import study_of

ATTRIBUTES = ("age", "sex", "site", "skin_type", "source")
"""No table here has skin types."""


def in_several_cells(name: str) -> Patient:
    """Pictures of all ages, both sexes and several sites, of both classes."""
    who = patient(name, [7, 8, 9, 11], 1, 0, 1, 0)
    facts = [("12", "male", "back"), ("44", "female", "face"), ("66", "", "palm"), ("", "other", "")]
    pictures = zip(who.pictures, facts, strict=True)
    return replace(
        who,
        pictures=tuple(replace(p, cells={**p.cells, "age": a, "sex": s, "site": t}) for p, (a, s, t) in pictures),
    )


def about_nobody(name: str) -> Patient:
    return patient(name, [7, 8], 1, 0, age="", sex="", site="")


def of_no_meaning(name: str) -> Patient:
    return patient(name, [7], 1, age="-5", sex="?!", site="elsewhere")


def situation(make: Callable[[str], Patient], others: tuple[Patient, ...]) -> Situation:
    return Situation(others, in_part("test", make))


HOSTILE: dict[str, Situation] = {
    "in_several_cells": situation(in_several_cells, crowd(10)),
    "about_nobody": situation(about_nobody, crowd(10)),
    "of_no_meaning": situation(of_no_meaning, crowd(10)),
    "in_a_cell_of_its_own": situation(
        lambda name: patient(name, [7], 1, age="90", sex="female", site="palm"),
        tuple(renamed(who, age="20", sex="male", site="back") for who in crowd(10)),
    ),
    "of_a_table_that_says_nothing": situation(
        about_nobody, tuple(renamed(who, age="", sex="", site="") for who in crowd(10))
    ),
}


def asked_of(folder: Path, found: Situation) -> Neighbours:
    study = study_of(**{**found.study, "evaluation": {"subgroups": ATTRIBUTES}})
    models = [ordinary(model_of(study), seed) for seed in range(4)]
    return neighbours(folder, found.crowd, found.one, lambda who: whole_study(who, study, models))


@pytest.mark.parametrize("name", HOSTILE)
def test_whichever_cells_the_patient_is_in(name: str, tmp_path: Path) -> None:
    asked = asked_of(tmp_path, HOSTILE[name])
    assert asked.verdict.faults == []
    assert [release.kind for release in asked.with_.releases].count("subgroups") == 1, "asked twice, released once"
    assert asked.verdict.worst["subgroups"] > 0.5, "whoever is there shows, or nothing is tested"


@pytest.mark.parametrize(
    "name", ["only_patient", "names_anothers_picture", "unusable_rows", "nameless", "only_in_training"]
)
def test_whoever_the_patient_is(name: str, tmp_path: Path) -> None:
    assert asked_of(tmp_path, SITUATIONS[name]("test")).verdict.faults == []


def test_a_patient_whose_pictures_count_in_their_own_cells_is_seen(tmp_path: Path) -> None:
    """Were each picture in its own cell, a patient in several would move more than the noise is made for."""

    def of_each(records: list[LesionRecord], _together: object, attribute: str) -> object:
        return real(records, [record.image for record in records], attribute)

    real = melfed.client.privacy.noised_subgroups.cells_of
    with mock.patch.object(melfed.client.privacy.noised_subgroups, "cells_of", of_each):
        faults = asked_of(tmp_path, HOSTILE["in_several_cells"]).verdict.faults
    assert any("(subgroups): differs by 1." in fault for fault in faults), faults
