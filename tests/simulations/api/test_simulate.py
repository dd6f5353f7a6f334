"""A run from Python: the command's, without its words where quiet."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError, StudyError
from melfed.simulations import Run, simulate
from melfed.simulations.run import run_study
from tests.server.trackers.told import Listener
from tests.simulations.api.runs import STUDY


def test_a_quiet_run_says_nothing(phantom: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = simulate(STUDY, phantom, out=tmp_path / "run", cache=tmp_path / "cache", quiet=True)
    assert capfd.readouterr() == ("", "")
    assert run.report.is_file()


def test_a_run_tells_its_rounds_and_chooses_its_folder(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [simulate(STUDY.protocol, phantom, cache=tmp_path / "cache") for _ in range(2)]
    told = capfd.readouterr()
    assert told.out == ""
    assert [line.split(":")[0] for line in told.err.splitlines() if line.startswith("round")] == [
        "round 1",
        "round 2",
    ] * 2
    assert len({run.path for run in runs}) == 2
    assert all(run.path.parent == Path("runs") and run.path.name.startswith("small-") for run in runs)
    assert runs[0].metrics == runs[1].metrics


def test_an_interrupted_run_goes_on(phantom: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(*arguments: object, **options: object) -> None:
        run_study(*arguments, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr("melfed.simulations.run.run_study", cut_off)
    with pytest.raises(KeyboardInterrupt):
        simulate(STUDY, phantom, out=tmp_path / "run", cache=tmp_path / "cache", quiet=True)
    monkeypatch.undo()
    for name in ("summary.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    again = simulate(STUDY, phantom, out=tmp_path / "run", resume=True, cache=tmp_path / "cache", quiet=True)
    assert again.metrics == run.metrics


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resume": True}, "resume goes on with the run in out"),
        ({"policies": {"*": Path("clinic.yaml")}}, "no clinic decides in a central baseline"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], words: str, phantom: Path) -> None:
    with pytest.raises(StudyError, match=words):
        simulate(STUDY, phantom, **options)  # type: ignore[arg-type]


def test_a_policy_of_no_clinic(phantom: Path, tmp_path: Path) -> None:
    study = STUDY.with_(federation={"mode": "federated"})
    with pytest.raises(StudyError, match=r"no clinic 'none'; the clinics are .*phantom_north"):
        simulate(study, phantom, cache=tmp_path, policies={"none": tmp_path / "clinic.yaml"}, quiet=True)


def test_a_folder_that_is_taken(phantom: Path, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists; choose another"):
        simulate(STUDY, phantom, out=run.path, cache=tmp_path, quiet=True)


def test_trackers_are_told_of_a_run(phantom: Path, tmp_path: Path, run: Run) -> None:
    listener = Listener()
    done = simulate(STUDY, phantom, out=tmp_path / "run", cache=tmp_path / "cache", quiet=True, trackers=[listener])
    assert [number for kind, number, numbers in listener.calls if kind == "record" and "seconds" in numbers] == [1, 2]
    kind, number, numbers = listener.calls[-1]
    assert (kind, number) == ("finished", 2)
    assert numbers["test/auroc"] == done.metrics.auroc.value
    assert listener.closed == 1
    assert done.summary.study.digest == run.summary.study.digest, "who is told is no part of the study"
    with pytest.raises(StudyError, match="no tracker 'paper'"):
        simulate(STUDY, phantom, cache=tmp_path, trackers=["paper"])
