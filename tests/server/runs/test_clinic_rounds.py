"""The table of clinics over rounds."""

import csv
from pathlib import Path

from melfed.server.runs.clinic_rounds import COLUMNS, write_clinic_rounds
from tests.server.fakes import Run, clinics_of, grid_of, study_of


def rows_of(run: Run) -> list[dict[str, str]]:
    write_clinic_rounds(run.folder)
    with (run.folder.path / "clinic_rounds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_a_round_and_clinic(tmp_path: Path) -> None:
    study = study_of(rounds=3, validate_every=2)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)))
    run.conduct()
    rows = rows_of(run)
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["round"], row["clinic"]) for row in rows] == [(str(n), c) for n in (1, 2, 3) for c in "abc"]
    assert [float(row["weight"]) for row in rows[:3]] == [20, 30, 40]
    assert all(float(row["train_loss"]) > 0 and int(row["bytes_up"]) > 0 for row in rows)
    assert [bool(row["auroc"]) for row in rows] == [False] * 3 + [True] * 6, "validated after rounds 2 and 3"
    for row in rows[3:]:
        assert 0 <= float(row["auroc_low"]) <= float(row["auroc"]) <= float(row["auroc_high"]) <= 1
        assert int(row["images"]) == 9


def test_a_run_without_such_events_has_a_table_of_no_line(tmp_path: Path) -> None:
    study = study_of(rounds=1)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)))
    run.folder.append({"event": "round", "round": 1})
    assert rows_of(run) == []
