"""What is made of a finished run's releases: other heads, worth, a run without one of its clinics."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from melfed.common.errors import RunError
from melfed.common.tensors import load_tensors
from melfed.server.results.evaluate import load_model
from melfed.server.results.post_processing import prevalence_of, without, worth_of, write_head
from melfed.server.results.solved import Terms, read_solution, solve_run
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.releases import Releases
from melfed.simulations import run as run_module
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import simulate
from tests.common.runs import finished_run, public_model
from tests.in_process import SilentObserver, federate
from tests.simulations.test_one_round import NECK, study_of


@pytest.fixture(scope="module")
def finished(phantom_clinics: VirtualClinics, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody touches."""
    folder = tmp_path_factory.mktemp("finished")
    study = study_of(finished_run(folder / "public", public_model(neck=NECK)), evaluation="public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "federate", federate)
        simulate(study, phantom_clinics, folder / "run", SilentObserver())
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunFolder:
    """A copy of it."""
    return RunFolder.open(shutil.copytree(finished, tmp_path / "run"))


def kept(run: RunFolder) -> Releases:
    return Releases(run.releases, run.study().digest)


def test_without_a_clinic_the_head_is_that_of_the_others_to_the_bit(run: RunFolder) -> None:
    releases = kept(run).kept()
    gone, *others = releases
    expected = solve_run(
        run.study(), {name: releases[name] for name in others}, public=read_solution(run).public
    ).tensors()
    before = {path.name: path.read_bytes() for path in run.ledgers.glob("*.jsonl")}
    assert list(run.ledgers.glob(f"{gone}.moments-*"))
    without(run, gone, "somebody")
    tensors, _ = load_tensors(run.model)
    for name, tensor in expected.items():
        assert np.array_equal(tensors[name], tensor)
    assert list(kept(run).kept()) == others
    assert read_solution(run).clinics == tuple(others)
    assert not read_solution(run).evaluated
    assert not list(run.ledgers.glob(f"{gone}.moments-*"))
    assert {path.name: path.read_bytes() for path in run.ledgers.glob("*.jsonl")} == before, "what was spent stays"
    summary = run.summary()
    assert summary.test.auroc.value is None
    assert [clinic.name for clinic in summary.clinics] == others
    assert "no clinic has evaluated it" in summary.warnings[0]
    assert "no clinic has evaluated it" in run.report.read_text()
    assert [event["event"] for event in run.events()] == ["round", "forgotten"]
    load_model(run)


def test_whom_nobody_knows_nobody_forgets(run: RunFolder) -> None:
    with pytest.raises(RunError, match="clinic 'nobody' took no part in it; phantom_"):
        without(run, "nobody", "somebody")
    for name in list(kept(run).kept())[1:]:
        without(run, name, "somebody")
    (last,) = kept(run).kept()
    with pytest.raises(RunError, match=f"nobody but {last} took part"):
        without(run, last, "somebody")


def test_another_head_is_a_model_of_its_own(run: RunFolder, tmp_path: Path) -> None:
    clinic = next(iter(kept(run).kept()))
    share = prevalence_of(run, clinic)
    assert 0.001 <= share <= 0.999
    content = run.model.read_bytes()
    terms = Terms.of(run.study()).model_copy(update={"ridge": 4.0, "prevalence": share})
    write_head(run, tmp_path / "head", terms)
    study, model = load_model(RunFolder.open(tmp_path / "head"))
    assert study.digest == run.study().digest
    expected = solve_run(study, kept(run).kept(), terms, read_solution(run).public).tensors()
    assert np.array_equal(model.head.weight.detach().numpy(), expected["head.weight"])
    assert run.model.read_bytes() == content
    with pytest.raises(RunError, match="exists"):
        write_head(run, tmp_path / "head", terms)
    with pytest.raises(RunError, match="took no part"):
        prevalence_of(run, "nobody")


def test_what_each_clinic_was_worth_adds_up(run: RunFolder) -> None:
    found = worth_of(run, "auroc")
    assert sum(e.value for e in found.shapley.values()) == pytest.approx(found.together.value - found.start.value)
    assert found.alone.keys() == kept(run).kept().keys()
    assert len(found.pairs) == 3
    assert all(e.low <= e.value <= e.high for e in found.alone.values())


def test_a_damaged_release_is_named(run: RunFolder) -> None:
    path = next(run.releases.iterdir())
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RunError, match=str(path)):
        worth_of(run, "auroc")


def test_a_run_of_rounds_has_no_releases(run: RunFolder, tmp_path: Path) -> None:
    study = run.study().with_changes("federation", mode="federated")
    other = RunFolder.create(tmp_path / "rounds", study)
    with pytest.raises(RunError, match="it trained in rounds"):
        without(other, "phantom_east", "somebody")
