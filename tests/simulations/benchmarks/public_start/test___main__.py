"""The command: which sources are left out, and a line for each start and neck."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from melfed.common.data.dataset import Images
from melfed.common.errors import StudyError
from melfed.simulations.benchmarks.public_start.__main__ import left_out_sources, main
from tests.simulations.benchmarks.public_start.records import of_sources

STUDY = """
name: public
data: {image_size: 32}
partition: {minimum_images: 4}
model: {backbone: simple_cnn, pretrained: false}
training: {batch_size: 16}
federation: {mode: central, rounds: 1, validate_every: 1}
"""


def images(*counts: tuple[str, int, int]) -> Images:
    return Images(tuple(of_sources(counts)), None)  # type: ignore[arg-type]


def test_sources_with_both_classes_are_left_out() -> None:
    mixed = images(("A", 5, 5), ("B", 5, 0), ("C", 2, 1))
    assert left_out_sources(mixed, []) == ["A", "C"]
    assert left_out_sources(mixed, ["C"]) == ["C"]
    with pytest.raises(StudyError, match="--leave-out B: no source with both classes; there are A, C"):
        left_out_sources(mixed, ["B"])
    with pytest.raises(StudyError, match="one source alone"):
        left_out_sources(images(("A", 5, 5)), [])


def test_there_is_a_row_for_each_start_neck_and_source(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melfed.common.data.images.store.default_cache", lambda: tmp_path / "cache")
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    app = Typer()
    app.command()(main)
    arguments = [
        *(str(study), "--data", str(phantom), "--out", str(tmp_path / "starts"), "--epsilon", "8", "--epsilon", "inf"),
        *("--start", "plain", "--start", "balanced:balance=both,training.positive_weight=1"),
        *("--neck", "features=4", "--neck", "features=6,blind=true", "--draws", "1"),
    ]
    found = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    rows = json.loads(found.stdout)
    assert {(row["start"], row["neck"]) for row in rows} == {
        (start, neck) for start in ("plain", "balanced") for neck in ("4", "6, blind=true")
    }
    assert len(rows) == 4 * len({row["source"] for row in rows}) >= 8
    for row in rows:
        assert set(row["private"]) == {"1500 at 8", "1500 at ∞"}
        assert all(0 <= row[name] <= 1 for name in ("network", "public", "told", "told_left_out"))
    lines = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["plain"] * 2 + ["balanced"] * 2
