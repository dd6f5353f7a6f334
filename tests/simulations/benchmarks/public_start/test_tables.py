"""Tables of starts and necks: means, and differences from the first line on the same sources."""

import math
from dataclasses import replace

from melfed.simulations.benchmarks.public_start.tables import Judged, table


def judged(start: str, source: str, public: float, private: float, neck: str = "64") -> Judged:
    return Judged(
        start=start,
        neck=neck,
        source=source,
        seed=0,
        network=0.7,
        public=public,
        kept=0.8,
        told=0.9,
        chance=0.5,
        told_left_out=0.6,
        private={"1500 at 3": private},
    )


def test_a_line_has_means_and_paired_differences() -> None:
    rows = [
        judged("plain", "A", 0.60, 0.70),
        judged("plain", "B", 0.80, 0.90),
        judged("other", "A", 0.61, 0.69),
        judged("other", "B", 0.83, 0.91),
    ]
    header, _, first, second = table(rows)
    assert header.endswith("left-out source told | 1500 at 3 |")
    assert first == "| plain | 64 | 0.700 | 0.700 | 0.800 | 0.900 | 0.600 | 0.800 |"
    # Differences of 0.01 and 0.03, and of -0.01 and 0.01.
    cells = second.split(" | ")
    assert cells[3] == "0.720 (+0.020 ± 0.010)"
    assert cells[-1] == "0.800 (+0.000 ± 0.010) |"


def test_one_source_alone_has_no_standard_error() -> None:
    lines = table([judged("plain", "A", 0.6, 0.7), judged("plain", "A", 0.7, 0.7, neck="16")])
    assert "0.700 (+0.100 ± nan)" in lines[-1]


def test_what_was_not_judged_has_no_column() -> None:
    row = replace(judged("plain", "A", 0.6, 0.7), told=math.nan, told_left_out=math.nan)
    assert table([row])[0] == "| start | neck | network | public head | kept apart | 1500 at 3 |"


def test_what_is_not_known_of_a_source_is_left_out_of_the_mean() -> None:
    rows = [judged("plain", "A", 0.6, 0.7), judged("plain", "B", math.nan, 0.7), judged("other", "A", 0.7, 0.8)]
    rows += [judged("other", "B", math.nan, 0.7)]
    first, second = table(rows)[2:]
    assert "| 0.600 |" in first
    assert "| 0.700 (+0.100 ± nan) |" in second
    only = [*rows[:2], judged("other", "B", math.nan, 0.7)]
    assert "| 64 | 0.700 (+0.000 ± nan) | – |" in table(only)[3]
