"""A finished run in a notebook: the numbers of its folder, no others."""

import json
from pathlib import Path

import numpy as np
import polars
import pytest

from melfed.common.errors import RunError
from melfed.simulations import Run
from tests.simulations.api.runs import STUDY


def test_metrics_are_those_of_the_summary(run: Run) -> None:
    kept = json.loads((run.path / "summary.json").read_text())
    assert run.metrics.auroc.value == kept["test"]["auroc"]["value"]
    assert run.clinics.keys() == {row["name"] for row in kept["clinics"]}
    assert run.study.with_(name="small").federation == STUDY.federation


def test_rounds_are_a_table(run: Run) -> None:
    rounds = run.rounds
    assert rounds["round"].to_list() == [1, 2]
    assert rounds["train_loss"].to_list() == [row.train_loss for row in run.summary.rounds]
    last = run.summary.rounds[-1].validation
    assert last is not None
    assert rounds["auroc"][-1] == last.auroc.value
    assert isinstance(rounds, polars.DataFrame)


def test_a_picture_has_the_score_that_the_run_gave_it(run: Run, phantom: Path) -> None:
    scored = polars.read_parquet(run.path / "predictions.parquet")
    image, probability = scored["image"][0], scored["probability"][0]
    path = next(path for path in phantom.rglob("*") if path.stem == Path(image).stem)
    one, (same, broken) = run.predict(path), run.predict_all([str(path), Path(__file__)])
    assert one.probability == pytest.approx(probability, abs=1e-6)
    assert same.probability == one.probability
    assert broken.probability is None
    assert broken.problem


def test_a_run_is_opened_again(run: Run, tmp_path: Path) -> None:
    again = Run.open(str(run.path))
    assert again.summary == run.summary
    assert repr(again) == repr(run)
    assert f"AUROC {np.round(run.metrics.auroc.value or 0, 3):.3f}" in repr(run)
    (tmp_path / "study.yaml").write_text("name: open\n")
    with pytest.raises(RunError, match="has not finished"):
        Run.open(tmp_path)


def test_a_notebook_shows_a_row_a_clinic(run: Run) -> None:
    shown = run._repr_html_()
    assert shown.count("<tr>") == 2 + len(run.clinics)
    assert "report.html" in shown
