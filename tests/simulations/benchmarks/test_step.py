"""A step against another version's: each in a process of its own, in turn, and the median of neighbours' ratios."""

from pathlib import Path

import pytest

from melfed.simulations.benchmarks import step

COUNTED = """
import sys
times = iter({times})
for _ in sys.stdin:
    print(next(times), flush=True)
"""


def test_the_median_of_ratios_without_the_first_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for tree in (here, there):
        (tree / "src" / "melfed").mkdir(parents=True)
    times = {here: [[9, 9], [2, 1], [4, 2], [6, 3]], there: [[1, 1], [1, 1], [1, 1], [2, 1]]}
    script = "import os\n" + COUNTED.format(
        times="{" + ",".join(f"{str(tree)!r}: {rows}" for tree, rows in times.items()) + "}[os.getcwd()]"
    )
    monkeypatch.setattr(step, "HERE", here)
    monkeypatch.setattr(step, "STEPS", script)
    row = step.compare(there, "simple_cnn", "full", 32, 4, pairs=3)
    assert (row["wall_here"], row["wall_there"], row["wall_ratio"]) == (4, 1, 3)  # of 2, 4, 3
    assert (row["processor_here"], row["processor_there"], row["processor_ratio"]) == (2, 1, 2)
    assert (row["model"], row["part"], row["size"], row["batch"], row["pairs"]) == ("simple_cnn", "full", 32, 4, 3)
