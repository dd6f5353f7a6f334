"""Rows of a comparison: one a cell, the same in both files, and metrics that are exactly those of the scores."""

import csv
from pathlib import Path

import numpy as np
import polars
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from melfed.common.errors import RunError
from melfed.simulations.comparison.results import read_scores, result_of, row, same_patients, write_rows
from melfed.simulations.comparison.statistics.differences import metrics_of
from tests.simulations.comparison.made import cell, result, scores, without

KEYS = ("model.backbone", "model.pretrained", "seed")


def test_metrics_are_those_of_scikit_learn() -> None:
    made = scores(1)
    found = metrics_of(made)
    assert found.auroc.value == pytest.approx(roc_auc_score(made.targets, made.logits), abs=1e-12)
    assert found.auprc.value == pytest.approx(average_precision_score(made.targets, made.logits), abs=1e-12)
    assert found.balanced_accuracy.value == pytest.approx(balanced_accuracy_score(made.targets, made.logits >= 0))
    assert found.patients == len(set(made.patients))


def test_a_row_a_cell_in_both_files(tmp_path: Path) -> None:
    made = [result(cell("simple_cnn"), scores(1)), without(cell("vgg16", pretrained=True))]
    rows = [row(each, KEYS) for each in made]
    write_rows(tmp_path, rows, KEYS)
    table = polars.read_parquet(tmp_path / "results.parquet")
    with (tmp_path / "results.csv").open() as file:
        text = list(csv.DictReader(file))
    assert table.columns == list(text[0]) == list(rows[0])
    assert table["status"].to_list() == [line["status"] for line in text] == ["finished", "no weights"]
    first, second = table.row(0, named=True), table.row(1, named=True)
    assert (first["model.backbone"], first["model.pretrained"], first["seed"]) == ("simple_cnn", "false", "0")
    assert first["auroc"] == float(text[0]["auroc"]) == made[0].metrics.auroc.value
    assert (first["bytes_up"], first["bytes_down"], first["seconds"]) == (1_000_000, 2_000_000, 12.5)
    assert (first["parameters"], first["flops"], first["latency_ms"]) == (100_000, 10_000_000, 2.0)
    assert (first["epsilon"], second["auroc"], second["parameters"]) == (None, None, None)
    assert second["reason"] == "there are none <here>"


def test_scores_are_read_in_the_order_of_their_images(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    content = {"image": ["b", "a"], "clinic": ["n", "s"], "group": ["q", "p"], "target": [1, 0], "logit": [0.5, -1.0]}
    polars.DataFrame(content).write_parquet(path)
    found = read_scores(path)
    assert (found.images, found.patients) == (("a", "b"), ("p", "q"))
    assert np.array_equal(found.targets, [False, True])
    assert np.array_equal(found.logits, [-1.0, 0.5])
    path.write_bytes(b"no table")
    with pytest.raises(RunError, match="damaged"):
        read_scores(path)
    with pytest.raises(RunError, match="missing"):
        read_scores(tmp_path / "none")


def test_a_cell_that_failed_has_its_reason(tmp_path: Path) -> None:
    made = cell("simple_cnn")
    failed = result_of(tmp_path, made, "out of memory", None, None)
    assert (failed.status, failed.reason, failed.metrics) == ("failed", "out of memory", None)
    assert result_of(tmp_path, made, None, "none", None).status == "no weights"


def test_patients_are_the_same_where_images_and_truth_are() -> None:
    assert same_patients(scores(1), scores(2))
    assert not same_patients(scores(1), scores(1, part=1))
