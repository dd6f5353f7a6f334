"""A whole comparison: from a file to its folder, and again with --resume."""

import csv
import dataclasses
import json
from pathlib import Path

import polars
import pytest

from melfed.common.errors import CellsError, RunError, StudyError
from melfed.simulations.comparison import comparison
from melfed.simulations.comparison.comparison import Request, check, compare
from tests.simulations.comparison.inline import Recorder, fail_at, run_inline

GRID = """\
name: small
study:
  data: {image_size: 32}
  partition: {minimum_images: 4}
  model: {backbone: simple_cnn, pretrained: false}
  training: {augment: false}
  federation: {mode: central, rounds: 1}
vary:
  training.learning_rate: [1.0e-3, RATE]
  seed: [0]
"""


@pytest.fixture
def request_of(tmp_path: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch):
    run_inline(monkeypatch)

    def make(rate: str = "1.0e-2", **changes: object) -> Request:
        path = tmp_path / "grid.yaml"
        path.write_text(GRID.replace("RATE", rate))
        return Request(path, phantom, tmp_path / "out", cache=tmp_path / "cache", **changes)

    return make


def test_a_comparison_writes_all_its_files(request_of, tmp_path: Path) -> None:
    watch = Recorder()
    found = compare(request_of(), watch)
    out = tmp_path / "out"
    wanted = {"comparison.yaml", "results.parquet", "results.csv", "comparisons.csv", "comparison.html", "sources.csv"}
    assert wanted <= {path.name for path in out.iterdir()}
    assert (out / "comparison.pdf").read_bytes().startswith(b"%PDF")
    table = polars.read_parquet(out / "results.parquet")
    assert table["status"].to_list() == 2 * ["finished"]
    for line in table.iter_rows(named=True):
        summary = json.loads((out / "cells" / line["name"] / "summary.json").read_text())
        assert line["auroc"] == pytest.approx(summary["test"]["auroc"]["value"], abs=1e-9)
        assert line["digest"] == summary["study"]["digest"]
        assert 0 <= line["auroc_within_sources_low"] <= line["auroc_within_sources"] <= 1
        assert 0.5 <= line["auroc_source_alone"] <= 1
    assert [(len(cells), finished) for cells, finished in watch.of("began")] == [(2, 0)]
    assert found.timing.run == 2
    check(found, out)
    with pytest.raises(RunError, match="exists; choose another --out, or go on with --resume"):
        compare(request_of(), Recorder())


@pytest.fixture
def no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pages take longer than all else."""
    monkeypatch.setattr(comparison, "write_pdf", lambda _out, _found: None)


def test_what_failed_is_reported_and_taken_up_again(
    request_of, no_pdf: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = fail_at(monkeypatch, 1e-2)
    out = tmp_path / "out"
    found = compare(request_of(), Recorder())
    with pytest.raises(CellsError, match=r"1 of 2 cells have no result.*a cable was pulled.*--resume") as error:
        check(found, out)
    assert error.value.exit_code == 21
    with (out / "results.csv").open() as file:
        assert [line["status"] for line in csv.DictReader(file)] == ["finished", "failed"]
    assert "a cable was pulled" in (out / "comparison.html").read_text()
    broken[0] = False
    watch = Recorder()
    again = compare(request_of(resume=True), watch)
    assert [(len(cells), finished) for cells, finished in watch.of("began")] == [(1, 1)]
    assert again.failed == []


def test_a_larger_grid_goes_on_with_what_is_there(request_of, no_pdf: None) -> None:
    compare(request_of(), Recorder())
    watch = Recorder()
    found = compare(request_of(rate="2.0e-2", resume=True), watch)
    assert [(len(cells), finished) for cells, finished in watch.of("began")] == [(1, 1)]
    assert len(found.results) == 2


@pytest.mark.parametrize(
    ("rate", "changes", "words"),
    [
        ("1.0e-2", {"most": 1}, "2 cells, and 1 are allowed"),
        ("1.0e-2", {"overrides": ("model.bakbone=x",)}, "did you mean model.backbone"),
        ("1.0e-3", {}, "has the value 0.001 twice"),
        ("1.0e-2", {"data": None}, "needs images: add --data DIR"),
        ("1.0e-2", {"resume": True}, "no comparison to resume"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    request_of, tmp_path: Path, rate: str, changes: dict[str, object], words: str
) -> None:
    with pytest.raises((StudyError, RunError), match=words):
        compare(dataclasses.replace(request_of(rate), **changes), Recorder())
    assert not (tmp_path / "out").exists()
