"""comparisons.csv has every pair, with the numbers behind the page."""

import csv
from pathlib import Path

from melfed.simulations.comparison.report.pairs_table import COLUMNS, write_pairs
from tests.simulations.comparison.made import finding


def test_every_pair_is_a_line(tmp_path: Path) -> None:
    found = finding()
    write_pairs(tmp_path, found)
    with (tmp_path / "comparisons.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert [float(line["difference"]) for line in lines] == [p.difference.value for p in found.compared.pairs]
    assert [line["shown"] for line in lines] == [str(p.shown).lower() for p in found.compared.pairs]
