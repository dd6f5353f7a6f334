"""`melfed-server solve`, `worth` and `forget` on a finished run of one round."""

import json
import sys
from pathlib import Path

import pytest

import melfed.server.cli.main
from melfed.common.errors import RunError
from melfed.server.runs.folder import RunFolder
from melfed.simulations import run as run_module
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import simulate
from tests.common.runs import finished_run, public_model
from tests.in_process import SilentObserver, federate
from tests.simulations.test_one_round import NECK, study_of


@pytest.fixture
def run(phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    public = finished_run(tmp_path / "public", public_model(neck=NECK))
    monkeypatch.setattr(run_module, "federate", federate)
    simulate(study_of(public, evaluation="public"), phantom_clinics, tmp_path / "run", SilentObserver())
    return tmp_path / "run"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["melfed-server", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            melfed.server.cli.main.main()
        captured = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call


def test_worth_is_a_table_a_figure_and_json(command, run: Path, tmp_path: Path) -> None:
    code, out, err = command("worth", run, "--figure", tmp_path / "worth.svg")
    assert code == 0, err
    assert "binormal AUROC of all together" in " ".join(out.split())
    assert "<svg" in (tmp_path / "worth.svg").read_text()
    code, out, _ = command("worth", run, "--error", "--json")
    content = json.loads(out)
    assert content["judge"] == "squared_error"
    assert len(content["shapley"]) == len(content["pairs"]) == 3


def test_another_head_says_what_it_is(command, run: Path, tmp_path: Path) -> None:
    code, out, err = command("solve", run, "--out", tmp_path / "head", "--ridge", 2, "--prevalence", 0.02)
    assert code == 0, err
    assert "ridge 2.0, positive_weight 1.0, prevalence 0.02" in " ".join(out.split())
    assert (tmp_path / "head" / "model.safetensors").exists()
    code, _, err = command("solve", run, "--out", tmp_path / "b", "--prevalence", 0.02, "--clinic", "phantom_east")
    assert code != 0
    assert "exclude each other" in err
    code, _, err = command("solve", run, "--out", tmp_path / "b", "--solver", "magic")
    assert "known are logistic" in " ".join(err.split())


def test_forget_says_what_stays(command, run: Path) -> None:
    name = RunFolder.open(run).summary().clinics[0].name
    code, out, err = command("forget", run, name)
    assert code == 0, err
    assert name not in out
    assert "ledger keeps what was spent" in err
    assert RunFolder.open(run).summary().test.auroc.value is None
    code, _, err = command("forget", run, name)
    assert code == RunError.exit_code
    assert "took no part" in " ".join(err.split())
