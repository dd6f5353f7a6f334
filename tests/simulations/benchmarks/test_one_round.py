"""The table of one round against sixty."""

from melfed.simulations.benchmarks.one_round import table


def test_each_way_has_a_line_with_its_means() -> None:
    row = {"epsilon": 3.0, "low": 0.8, "high": 0.9}
    rows = [
        {**row, "way": "one_round", "seed": 0, "auroc": 0.84, "seconds": 10.0},
        {**row, "way": "one_round", "seed": 1, "auroc": 0.86, "seconds": 20.0},
        {**row, "way": "rounds", "seed": 0, "auroc": 0.85, "seconds": 100.0},
    ]
    lines = table(rows)
    assert lines[2] == "| 3 | one_round | 0.8500 | 0.840 (0.800–0.900), 0.860 (0.800–0.900) | 15.0 |"
    assert lines[3] == "| 3 | rounds | 0.8500 | 0.850 (0.800–0.900) | 100.0 |"
