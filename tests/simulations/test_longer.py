"""A run goes on for more rounds where that is sound, and gives what the longer study gives; elsewhere it is refused."""

import json
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.server.results.evaluate import predict
from melfed.server.runs.folder import RunFolder
from melfed.simulations import run as run_module
from melfed.simulations.longer import check_longer
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from melfed.simulations.run import simulate
from tests.in_process import SilentObserver, federate


def study_of(mode: str = "federated", **changes: object) -> StudyProtocol:
    content = {
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "training": {"batch_size": 16},
        "federation": {"mode": mode, "rounds": 2, "algorithm": "fedavgm" if mode == "federated" else "fedavg"},
    }
    return StudyProtocol.model_validate_json(json.dumps(content | changes))


@pytest.fixture
def virtual(phantom: Path, tmp_path: Path) -> VirtualClinics:
    return divide(study_of(), phantom, tmp_path / "cache")


@pytest.mark.parametrize("mode", ["federated", "central", "local"])
def test_two_rounds_and_two_more_are_four(
    mode: str, virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    short, long = study_of(mode), study_of(mode).with_changes("federation", rounds=4)
    whole = simulate(long, virtual, tmp_path / "whole", SilentObserver())
    first = simulate(short, virtual, tmp_path / "run", SilentObserver())
    more = simulate(long, virtual, tmp_path / "run", SilentObserver(), resume=True)
    assert more.test == whole.test
    assert [row.train_loss for row in more.rounds] == [row.train_loss for row in whole.rounds]
    assert [row.validation for row in more.rounds] == [row.validation for row in whole.rounds]
    assert more.study.digest == long.digest != short.digest
    assert (more.study.parents, whole.study.parents) == ((short.digest,), ())
    folder, aside = RunFolder.open(tmp_path / "run"), RunFolder.open(tmp_path / "run" / "rounds-2")
    for path in (tmp_path / "whole").glob("model*.safetensors"):
        one, other = load_tensors(path)[0], load_tensors(folder.path / path.name)[0]
        assert all((one[name] == other[name]).all() for name in one)
    assert aside.summary() == first
    assert aside.study().digest == short.digest
    assert (aside.path / "seen.json").exists() == (mode != "local"), "statistics go with the model that they are of"
    if mode != "local":
        picture = virtual.root / virtual.records[0].image
        assert predict(aside.path, [picture])[0].probability is not None
    once_more = simulate(
        long.with_changes("federation", rounds=5), virtual, tmp_path / "run", SilentObserver(), resume=True
    )
    assert once_more.study.parents == (short.digest, long.digest)


REFUSED = [
    ({"federation": {"rounds": 3}}, {"rounds": 2}, "its study has 3 rounds, and 2 are asked for"),
    ({"training": {"schedule": "cosine"}}, {"rounds": 9}, "schedule is cosine: the learning rates so far"),
    ({"federation": {"tail_average": 0.5}}, {"rounds": 9}, "tail_average: other rounds are the last ones of 9 than of"),
    ({"privacy": {"unit": "image", "epsilon": 3}}, {"rounds": 9}, "its noise was chosen for 5 rounds, and 9 would"),
    ({}, {"rounds": 9, "quorum": 0.5}, "resume with the same study"),
]


@pytest.mark.parametrize(("content", "changes", "words"), REFUSED)
def test_where_it_is_not_sound_it_is_refused_with_the_reason(
    content: dict[str, object], changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    before = StudyProtocol.model_validate_json(json.dumps(content))
    folder = RunFolder.create(tmp_path / "run", before)
    with pytest.raises(RunError, match=words):
        check_longer(folder, before.with_changes("federation", **changes))
    assert folder.study().digest == before.digest


def test_a_kill_in_between_leaves_a_run_that_can_be_made_longer(
    virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = study_of("central"), study_of("central").with_changes("federation", rounds=3)
    simulate(short, virtual, tmp_path / "run", SilentObserver())

    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("melfed.simulations.longer.shutil.copy2", killed)
        with pytest.raises(Killed):
            simulate(long, virtual, tmp_path / "run", SilentObserver(), resume=True)
    assert RunFolder.open(tmp_path / "run").study().digest == short.digest
    more = simulate(long, virtual, tmp_path / "run", SilentObserver(), resume=True)
    assert (len(more.rounds), more.study.parents) == (3, (short.digest,))
