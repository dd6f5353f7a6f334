"""sources.csv has a line a run and source, and no figure of what is withheld."""

import csv
from pathlib import Path

from melfed.simulations.comparison.report.sources_table import COLUMNS, write_sources
from tests.simulations.comparison.made import finding, several_sources


def test_every_run_and_source_is_a_line(tmp_path: Path) -> None:
    found = finding(several_sources())
    write_sources(tmp_path, found)
    with (tmp_path / "sources.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert len(lines) == 3 * len(found.results)
    own = [each for result in found.results for each in result.by_source.sources]
    assert [(line["source"], int(line["melanomas"])) for line in lines] == [(o.name, o.melanomas) for o in own]
    assert [line["auroc"] for line in lines] == [str(o.auroc.value) if o.auroc.value else "" for o in own]
    assert {line["withheld"] for line in lines} == {"true", "false"}


def test_one_source_makes_no_file(tmp_path: Path) -> None:
    write_sources(tmp_path, finding())
    assert list(tmp_path.iterdir()) == []
