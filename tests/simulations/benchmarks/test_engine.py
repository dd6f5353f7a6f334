"""The benchmark of the engine at a small size, without Flower's own simulation."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from melfed.common.study.file import recorded_study
from melfed.simulations.benchmarks import engine
from melfed.simulations.benchmarks.engine import coordinator, main, write_clinics
from melfed.simulations.benchmarks.engine_references import STUDY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clinics(tmp_path, clinics=3, images=12, rounds=2)
    return tmp_path


def test_the_coordinators_part_is_measured(folder: Path) -> None:
    study = recorded_study(folder / STUDY)
    assert coordinator(5, study, folder / "run") > 0
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["event"] == "round"]
    assert [(len(row["answered"]), row["failed"]) for row in trained] == [(5, {}), (5, {})]


def test_one_run_gives_all_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path))
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--clinics", "4", "--rounds", "1", "--no-flower", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["ratio"] == {
        "loop": pytest.approx(found["rounds"] / found["loop_rounds"]),
        "loop_command": pytest.approx(found["command"] / found["loop_command"]),
    }
    assert found["memory_mb"] > 100
    assert found["command"] > found["rounds"] + found["start_and_end"]


def test_memory_is_told_against_fewer_clinics(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def melfed(folder: Path, _cache: Path, _out: Path) -> dict[str, float]:
        study = recorded_study(folder / STUDY)
        ran.append(len({path.name.partition("-")[0] for path in (folder / "data" / "images").iterdir()}))
        assert study.federation.rounds == 3
        return {"memory_mb": 100.0 + ran[-1]}

    monkeypatch.setattr(engine, "_melfed", melfed)
    app = Typer()
    app.command()(main)
    arguments = ["--clinics", "8", "--memory-against", "4", "--images", "6", "--rounds", "3", "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert ran == [4, 8]
    assert found["ratio"] == pytest.approx(108 / 104)
    assert (found["memory_mb"], found["memory_mb_against"]) == (108, 104)
