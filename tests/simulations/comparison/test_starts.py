"""The start as a baseline: the public run's model as it is, scored on the cells' own test patients."""

from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.common.model.inference import score
from melfed.simulations.comparison.grid import Cell
from melfed.simulations.comparison.job import Job, division_of, lay_out
from melfed.simulations.comparison.results import read_scores, start_result
from melfed.simulations.comparison.starts import as_trained, score_start, start_scores, starts_of
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.common.runs import finished_run, public_model
from tests.simulations.comparison.made import study


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A finished run with a neck, as private studies begin at."""
    return finished_run(tmp_path / "public", public_model(neck=4))


def cells(public: Path) -> list[Cell]:
    made = []
    for rate in (0.1, 0.2):
        base = study("simple_cnn", data={"image_size": 32}, partition={"minimum_images": 4})
        changes = {"model": {"pretrained": True, "weights": str(public), "train": "head", "neck": 4}}
        changes["training"] = {"learning_rate": rate}
        federated = base.with_sections({"federation": {"mode": "federated"}})
        made.append(Cell(f"cell-{rate}", "", {"training.learning_rate": rate}, federated.with_sections(changes)))
    return made


def test_cells_that_begin_at_one_run_share_one_start(public: Path) -> None:
    (start,) = starts_of(cells(public), None)
    assert (start.number, start.configuration, start.replicate) == (0, (("group", "start"),), (0,))
    plain = study("efficientnet_lite0", pretrained=True)  # from ImageNet's weights
    assert starts_of([Cell("a", "", {}, plain), Cell("b", "", {}, study("simple_cnn"))], None) == ()


def test_the_start_is_that_model_unchanged(public: Path, phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    made = cells(public)
    place = tmp_path / "workspace"
    place.mkdir()
    names = tuple(division_of(each.study) for each in made)
    lay_out(place, Job(tuple(made), names, tmp_path / "out", None, 1.0), {names[0]: phantom_clinics})
    (start,) = starts_of(made, None)
    score_start(place, start.number)
    found = read_scores(start_scores(tmp_path / "out", start))
    model = public_model(neck=4)
    expected = {}
    for clinic in phantom_clinics.clinics:
        images = clinic.load("test")
        logits = score(model, images, 32, torch.device("cpu"))
        expected |= dict(zip((record.image for record in images.records), logits, strict=True))
    assert found.images == tuple(sorted(expected))
    assert np.allclose(found.logits, [expected[image] for image in found.images], atol=1e-5)
    result = start_result(tmp_path / "out", start, None)
    assert (result.status, result.metrics.images) == ("start", len(expected))
    assert start_result(tmp_path / "elsewhere", start, None) is None


def test_a_network_is_told_by_its_tensors() -> None:
    plain = study("efficientnet_lite0", pretrained=True)
    neck = {"neck.projection": torch.zeros(100, 8), "head.weight": torch.zeros(1, 8)}
    assert (as_trained(plain, neck).model.neck, as_trained(plain, neck).model.metadata) == (8, False)
    with_metadata = {**neck, "head.weight": torch.zeros(1, 20)}
    assert as_trained(plain, with_metadata).model.metadata is True
    bare = as_trained(plain, {"head.weight": torch.zeros(1, 1280)}).model
    assert (bare.neck, bare.metadata) == (None, False)
