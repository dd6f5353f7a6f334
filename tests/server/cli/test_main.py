"""`melfed-server`: quick help, numbers on stdout, one line on stderr for what the user can mend."""

import json
import math
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import pytest

import melfed.server.cli.main
from melfed.common.errors import DataError, RunError
from melfed.common.export.out_of_distribution import NO_STATISTICS
from melfed.common.metrics.exact import EvaluationMetrics
from melfed.common.terminal.console import NOTICE
from melfed.common.terminal.predictions import NOT_CALIBRATED
from melfed.server.cli.options import interval_text
from melfed.server.results.evaluate import evaluate_run, predict
from tests.server.finished import labelled, picture

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = [sys.executable, "-c", "from melfed.server.cli.main import main; main()"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("data"), 12)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process; return its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["melfed-server", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            melfed.server.cli.main.main()
        captured = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"], ["predict", "--help"]])
def test_help_is_quick(arguments: list[str]) -> None:
    seconds = []
    for _ in range(3):
        started = perf_counter()
        done = process(*arguments)
        seconds.append(perf_counter() - started)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        if seconds[-1] < 1:
            break
    assert min(seconds) < 2, "one second, and another for a busy machine"


def test_a_missing_run_is_one_line_and_an_exit_code_in_a_real_process(tmp_path: Path) -> None:
    done = process("evaluate", tmp_path / "nowhere", "--data", tmp_path)
    assert done.returncode == RunError.exit_code == 6
    assert done.stdout == ""
    assert done.stderr == f"error: {tmp_path / 'nowhere'}: not a run folder (it has no study.yaml)\n"


def test_predict_of_a_missing_run_is_one_line_too(command, tmp_path: Path) -> None:
    code, out, err = command("predict", tmp_path / "nowhere", tmp_path / "a.png")
    assert (code, out) == (6, "")
    assert err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path / 'nowhere'}: ")


def test_the_version_is_printed(command) -> None:
    assert command("--version") == (0, f"melfed {version('melfed')}\n", "")


def test_at_the_server_a_run_has_a_name(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELFED_SERVER", str(tmp_path / "server.yaml"))
    assert command("predict", "night-1", "a.png")[2].startswith("error: night-1: not a run folder")
    (tmp_path / "server.yaml").write_text("runs: all\n")
    assert command("predict", "night-1", "a.png")[2].startswith(f"error: {tmp_path / 'all' / 'night-1'}: not a run")
    assert command("predict", "../night-1", "a.png")[2].startswith("error: ../night-1: ")
    (tmp_path / "night-1").mkdir()
    assert command("predict", "night-1", "a.png")[2].startswith("error: night-1: not a run folder")


def test_evaluate_prints_the_test_object(command, run: Path, data: Path, tmp_path: Path) -> None:
    code, out, err = command("evaluate", run, "--data", data, "--cache", tmp_path, "--json")
    assert (code, err) == (0, "")
    assert list(json.loads(out)) == list(EvaluationMetrics.model_fields)
    assert EvaluationMetrics.model_validate_json(out) == evaluate_run(run, data, tmp_path).metrics


def test_evaluate_prints_a_table(command, run: Path, data: Path, tmp_path: Path) -> None:
    code, out, err = command("evaluate", run, "--data", data, "--cache", tmp_path)
    assert code == 0
    metrics = evaluate_run(run, data, tmp_path).metrics
    assert "12 images" in out
    assert interval_text(metrics.auroc) in out
    assert interval_text(metrics.auprc) in out
    assert NOTICE in err


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_evaluate_names_what_it_left_out(command, run: Path, tmp_path: Path, options: list[str]) -> None:
    data = labelled(tmp_path / "data", 9)
    (data / "images" / "004.png").write_bytes(b"")
    code, out, err = command("evaluate", run, "--data", data, "--cache", tmp_path / "cache", *options)
    assert code == 0
    assert "left out images/004.png: " in err
    assert "004.png" not in out


def test_evaluate_without_images_says_so(command, run: Path, tmp_path: Path) -> None:
    code, out, err = command("evaluate", run, "--data", tmp_path / "nowhere", "--cache", tmp_path / "cache", "--json")
    assert (code, out) == (DataError.exit_code, "")
    assert err.count("\n") == 1
    assert err.startswith(f"error: {tmp_path / 'nowhere'}: no such folder")


def test_evaluate_needs_a_folder(command, run: Path) -> None:
    code, _, err = command("evaluate", run)
    assert code == 2
    assert "--data" in err


def test_predict_prints_a_line_an_image(command, run: Path, data: Path) -> None:
    images = sorted((data / "images").iterdir())[:3]
    code, out, err = command("predict", run, *images)
    assert code == 0
    assert err.splitlines() == [NOTICE, f"note: {NOT_CALIBRATED}", f"note: {NO_STATISTICS}"]
    rows = [line.split("\t") for line in out.splitlines()]
    assert [Path(name) for _, name in rows] == images
    assert all(len(probability) == 6 and 0 <= float(probability) <= 1 for probability, _ in rows)


def test_predict_prints_all_digits_as_json(command, run: Path, data: Path, tmp_path: Path) -> None:
    images = sorted((data / "images").iterdir())[:3]
    code, out, _ = command("predict", run, *images, tmp_path / "none.png", "--json")
    assert code == DataError.exit_code
    *rows, missing = json.loads(out)
    assert [row["image"] for row in rows] == [str(path) for path in images]
    for row, expected in zip(rows, predict(run, images), strict=True):
        assert (row["probability"], row["logit"], row["problem"]) == (expected.probability, expected.logit, None)
        assert 1 / (1 + math.exp(-row["logit"])) == pytest.approx(row["probability"], abs=1e-15)
    assert (missing["probability"], missing["logit"]) == (None, None)
    assert missing["problem"]


def test_predict_goes_on_after_a_bad_image_and_says_so_by_its_code(command, run: Path, tmp_path: Path) -> None:
    bad, good = tmp_path / "a:100:[b].png", tmp_path / "good.png"
    bad.write_bytes(b"no picture")
    picture(good, 1)
    code, out, err = command("predict", run, bad, good)
    assert code == DataError.exit_code == 4
    assert out.endswith(f"\t{good}\n")
    assert out.count("\n") == 1
    problems = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(problems) == 1
    assert problems[0].startswith(f"error: {bad}: ")
    assert problems[0].count(str(bad)) == 1
