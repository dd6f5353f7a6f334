"""What learns, and how, under models that no training would make: drawn, made by hand, and searched for."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.neighbours.clinics import in_part, patient
from tests.neighbours.combinations import COMBINATIONS, CROWD, Bench, Combination, bench_of
from tests.neighbours.hostile import build, genomes
from tests.neighbours.lab import Lab
from tests.neighbours.models import ordinary, twins
from tests.neighbours.questions import model_of
from tests.neighbours.studies import bystanders, study_of

DEEPER = int(os.environ.get("MELFED_NEIGHBOURS", "1"))
"""How many times as long to search."""
EXAMPLES, STEPS = 5 * DEEPER, 6 * DEEPER


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module", params=COMBINATIONS, ids=str)
def bench(request: pytest.FixtureRequest, weights: Path) -> Iterator[Bench]:
    combination: Combination = request.param
    with bench_of(combination, weights) as made:
        yield made


def test_ordinary_models_are_clipped(bench: Bench) -> None:
    """So that a lab in which nothing happens is seen."""
    measured = bench.lab.measure(bench.own)
    assert measured.difference > 0
    assert measured.bound(len(CROWD)) <= 1


def test_drawn_models(bench: Bench) -> None:
    names = list(bench.own)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=DEEPER == 1,
        database=None,
    )
    @given(genomes(names))
    def draw(genome: dict) -> None:
        measured = bench.lab.measure(build(bench.own, genome))
        assert measured.bound(len(CROWD)) <= 1, measured

    draw()


def test_searched_models(bench: Bench) -> None:
    worst, measured = bench.worst(STEPS)
    assert worst <= 1, measured


@pytest.mark.parametrize("looks", [[7], [7, 8, 9]])
@pytest.mark.parametrize("scale", [1e4, 1e7, 1e9])
def test_nobody_is_computed_in_another_way_for_the_company(looks: list[int], scale: float, tmp_path: Path) -> None:
    """A network that sees nothing but rounding: alone and in company a patient's gradient is the same."""
    study = study_of(privacy={"steps": 1}, training={"augment": False}, model={"backbone": "squeezenet1_1"})
    own = model_of(study)
    own["head.weight"] = ordinary(own)["head.weight"]
    own["trunk.features.12.expand3x3.weight"] *= 0
    model = twins(own, scale, layer="trunk.features.12.squeeze", after="trunk.features.12.expand1x1")
    one = in_part("train", lambda name: patient(name, looks, 1))
    others = tuple(in_part("train", lambda name: patient(name, [n + 20 for n in looks], 0), first=w) for w in "ABCDE")
    measured = Lab(tmp_path, study, (*bystanders(1), *others), one).measure(model)
    assert measured.share > 0
    assert measured.bound(len(others)) <= 1, measured
