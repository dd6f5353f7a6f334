"""What processes of a comparison share: the division of the data, and how far each cell is."""

from pathlib import Path

import pytest

from melfed.simulations.comparison.job import (
    Job,
    division,
    division_of,
    job_of,
    lay_out,
    read_progress,
    report_progress,
)
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.simulations.comparison.made import cell, study


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"image_size": 64}},
        {"partition": {"test": 0.3}},
        {"partition": {"seed": 5}},
        {"model": {"metadata": True}},
        {"federation": {"mode": "federated"}, "privacy": None},
    ],
)
def test_studies_share_clinics_unless_what_divides_them_differs(changes: dict[str, dict[str, object]]) -> None:
    plain = study("simple_cnn")
    federation = "federation" in changes
    changed = plain.with_sections({name: keys for name, keys in changes.items() if keys is not None})
    assert (division_of(changed) == division_of(plain)) is federation
    private = changed.model_copy(update={"privacy": None})
    assert division_of(private) == division_of(changed)


def test_a_seed_divides_unless_the_partition_has_its_own() -> None:
    first, second = study("simple_cnn", seed=1), study("simple_cnn", seed=2)
    assert division_of(first) != division_of(second)
    own = [each.with_changes("partition", seed=7) for each in (first, second)]
    assert division_of(own[0]) == division_of(own[1])


def test_the_unit_of_privacy_divides() -> None:
    federated = study("simple_cnn").with_changes("federation", mode="federated")
    content = federated.model_dump(mode="json")
    units = []
    for unit in ("patient", "lesion"):
        content["privacy"] = {"unit": unit, "epsilon": 3.0}
        units.append(division_of(type(federated).model_validate(content, strict=False)))
    assert len({*units, division_of(federated)}) == 3


def test_a_workspace_gives_back_what_was_laid_out(tmp_path: Path, phantom_clinics: VirtualClinics) -> None:
    job = Job((cell("simple_cnn"),), ("d",), tmp_path / "out", None, 1.0)
    lay_out(tmp_path, job, {"d": phantom_clinics})
    assert job_of(tmp_path) == job
    assert division(tmp_path, "d").records == phantom_clinics.records
    assert division(tmp_path, "d") is division(tmp_path, "d")
    report_progress(tmp_path, 0, 0.25)
    (tmp_path / "progress" / "2").write_text("")  # at the moment in which it is written
    assert read_progress(tmp_path, [0, 1, 2]) == {0: 0.25, 2: 0.0}
