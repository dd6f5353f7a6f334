"""The models that training begins at are judged on the clinics' own test images."""

from pathlib import Path

import numpy as np
import pytest

from melfed.client.privacy.accounting import epsilon
from melfed.client.privacy.plan import plan_of
from melfed.common.metrics.exact import histogram_metrics
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.model.classifier import load_trainable, trainable_tensors
from melfed.common.model.inference import pick_device, score
from melfed.common.study.build import build_study_classifier, seal
from melfed.server.results.solved import read_solution, solve_run
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.releases import Releases
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.starts import of_starts
from tests.common.runs import finished_run, public_model
from tests.simulations.test_one_round import NECK, grid_of, run, started, study_of


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("public") / "run", public_model(neck=NECK))


def auroc_of(model, virtual: VirtualClinics) -> float:  # type: ignore[no-untyped-def]
    together = ScoreHistogram.empty()
    for clinic in virtual.clinics:
        images = clinic.load("test")
        together += ScoreHistogram.from_scores(score(model, images, 32, pick_device()), images.targets, images.groups)
    value = histogram_metrics(together).auroc.value
    assert value is not None
    return value


@pytest.mark.parametrize("metadata", [False, True])
def test_the_public_start_and_the_solved_one_are_the_networks_they_are(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path, metadata: bool
) -> None:
    study = seal(started(public).with_changes("model", metadata=metadata))
    folder = RunFolder.create(tmp_path / "run", study)
    run(grid_of(study, phantom_clinics, folder), study, folder)
    rungs = {rung.name: rung for rung in of_starts(folder, study, phantom_clinics.clinics)}
    model = build_study_classifier(study)
    assert rungs["public"].auroc.value == pytest.approx(auroc_of(model, phantom_clinics), abs=1e-6)
    assert (rungs["public"].epsilon, rungs["public"].messages) == (0.0, 1)
    releases = Releases(folder.releases, study.digest).kept()
    solution = solve_run(study, releases, public=read_solution(folder).public)
    load_trainable(model, {**trainable_tensors(model), **solution.tensors()})
    assert rungs["one_round"].auroc.value == pytest.approx(auroc_of(model, phantom_clinics), abs=1e-6)
    plan = plan_of(study)
    assert plan.moments is not None
    assert rungs["one_round"].epsilon == epsilon([plan.moments, plan.counts], 1e-5)
    assert rungs["one_round"].epsilon < plan.epsilon


def test_a_run_of_one_round_is_no_start_of_itself(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    study = seal(study_of(public))
    folder = RunFolder.create(tmp_path / "run", study)
    assert [rung.name for rung in of_starts(folder, study, phantom_clinics.clinics)] == ["public"]


def test_without_a_public_run_or_privacy_nothing_is_judged(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    study = started(public)
    bare = study.with_sections({"federation": {"start": "public"}}).model_copy(update={"privacy": None})
    folder = RunFolder.create(tmp_path / "run", study)
    assert of_starts(folder, bare, phantom_clinics.clinics) == []
    assert np.isfinite(NECK)
