"""The benchmark on Fed-ISIC2019's centres: the same budget for all modes, and no lesion on two sides."""

from collections import defaultdict
from pathlib import Path

import polars
import pytest

from melfed.common.data.records import group_ids, read_table
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import whole_run
from melfed.simulations.comparison.grid import cells_of
from melfed.simulations.comparison.spec import ComparisonFile, read_comparison
from melfed.simulations.comparison.statistics.centres import centres_of
from melfed.simulations.partition.partition import partition
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "simulations" / "studies" / "fed-isic"
CENTRES = (9930, 3163, 2691, 1807, 655, 351)
"""Training images of each, as published."""


@pytest.fixture(params=("full", "reduced"))
def benchmark(request: pytest.FixtureRequest) -> ComparisonFile:
    return read_comparison(FOLDER / f"{request.param}.yaml")


def test_modes_differ_in_nothing_else(benchmark: ComparisonFile) -> None:
    cells = cells_of(benchmark)
    assert {(c.study.federation.mode, c.study.seed) for c in cells} == {
        (mode, seed) for mode in ("central", "local", "federated") for seed in (0, 1, 2)
    }
    pooled = cells[0].study
    for cell in cells:
        same = cell.study.with_changes("federation", mode="central").model_copy(update={"seed": 0})
        assert same == pooled
    assert pooled.federation.rounds * pooled.training.local_epochs == 20


def test_all_centres_together_take_the_pooled_steps(benchmark: ComparisonFile) -> None:
    study: StudyProtocol = cells_of(benchmark)[0].study
    pooled = whole_run(sum(CENTRES), study)
    assert pooled <= sum(whole_run(images, study) for images in CENTRES) <= 1.02 * pooled


@pytest.mark.parametrize("name", ["reduced", "algorithms"])
def test_all_files_name_the_same_centres(name: str) -> None:
    centres = read_comparison(FOLDER / "full.yaml").comparison.centres
    assert len(centres) == 6
    assert read_comparison(FOLDER / f"{name}.yaml").comparison.centres == centres


def test_algorithms_have_the_same_passes() -> None:
    file = read_comparison(FOLDER / "algorithms.yaml")
    studies = [(cell.group, cell.study) for cell in cells_of(file)]
    found = {(group, study.federation.algorithm) for group, study in studies}
    heads = {("head", name) for name in ("fedavg", "scaffold", "fednova", "ditto")}
    assert found == {*heads, ("affine", "fedavg"), ("affine", "fedbn")}
    passes = {(group, study.federation.rounds * study.training.local_epochs) for group, study in studies}
    assert passes == {("head", 20), ("affine", 2)}


def test_no_lesion_of_ham10000_is_on_two_sides(shared: Path) -> None:
    data = shared / "data" / "ham10000"
    if not data.is_dir():
        pytest.skip("needs the images of HAM10000 below the shared folder")
    records = read_table(data).records
    file = read_comparison(FOLDER / "reduced.yaml")
    found = {centre.name: centre.images for centre in centres_of(file.comparison, records)}
    assert list(found.values()) == [0, 3954, 3363, 2259, 0, 439]
    study = cells_of(file)[0].study
    sides: dict[str, set[str]] = defaultdict(set)
    ids = group_ids(records)
    for split in partition(records, study.partition, seed=0):
        for part in ("train", "validation", "test"):
            for number in getattr(split, part):
                sides[ids[number]].add(f"{split.name} {part}")
    assert len(sides) == 7470
    assert {len(parts) for parts in sides.values()} == {1}
    assert len(leaked(data)) == 760


def leaked(data: Path) -> list[str]:
    """Return the images of the published test part whose lesion is in its training part too."""
    table = polars.read_csv(data / "metadata.csv", infer_schema_length=None)
    train, test = (table.filter(polars.col("fed_isic2019_fold") == fold) for fold in ("train", "test"))
    assert len(test) == 2003
    return test.filter(polars.col("lesion_id").is_in(train["lesion_id"].to_list()))["image"].to_list()
