"""Tables of starts and necks: means over sources that were left out, and differences from the first of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev


@dataclass(frozen=True)
class Judged:
    """One start and neck on one source that the start was not trained on.

    Attributes:
        start, neck: how they were made.
        source, seed: what was left out, and the seed.
        network: AUROC on that source of the network that was trained, before it has its neck.
        public: that of the public head behind the neck.
        kept: the same on images of the other sources that the start was not trained on.
        told: balanced accuracy of a linear classifier of the sources that the start learnt from; chance: 1 over them.
        told_left_out: AUROC of one that tells the source that was left out.
        private: AUROC of a private head, by patients a clinic and ε: `1500 at 3`.
    """

    start: str
    neck: str
    source: str
    seed: int
    network: float
    public: float
    kept: float
    told: float
    chance: float
    told_left_out: float
    private: Mapping[str, float]


Column = tuple[str, Callable[[Judged], float]]


def columns(rows: Sequence[Judged]) -> list[Column]:
    """Return the name of each column, and what it shows; of what was not judged there is none."""
    fixed: list[Column] = [
        ("network", lambda row: row.network),
        ("public head", lambda row: row.public),
        ("kept apart", lambda row: row.kept),
        ("sources told", lambda row: row.told),
        ("left-out source told", lambda row: row.told_left_out),
    ]
    judged = [column for column in fixed if not all(math.isnan(column[1](row)) for row in rows)]
    return judged + [(name, _private(name)) for name in rows[0].private]


def _private(name: str) -> Callable[[Judged], float]:
    return lambda row: row.private[name]


def table(rows: Sequence[Judged]) -> list[str]:
    """Return Markdown: a line for each start and neck, with means over sources and seeds.

    In brackets: the mean difference from the first line on the same sources and seeds, and its standard error.
    """
    shown = columns(rows)
    lines = [f"| start | neck | {' | '.join(name for name, _ in shown)} |", "| --- " * (len(shown) + 2) + "|"]
    first = rows[0]
    base = {(row.source, row.seed): row for row in rows if (row.start, row.neck) == (first.start, first.neck)}
    for start, neck in dict.fromkeys((row.start, row.neck) for row in rows):
        mine = [row for row in rows if (row.start, row.neck) == (start, neck)]
        cells = [_cell(mine, base, value) for _, value in shown]
        lines.append(f"| {start} | {neck} | {' | '.join(cells)} |")
    return lines


def _cell(rows: Sequence[Judged], base: Mapping[tuple[str, int], Judged], value: Callable[[Judged], float]) -> str:
    # Where one class alone is there, nothing is known.
    known = [row for row in rows if math.isfinite(value(row))]
    if not known:
        return "–"
    number = f"{mean(value(row) for row in known):.3f}"
    pairs = [(row, base[row.source, row.seed]) for row in known]
    differences = [value(row) - value(first) for row, first in pairs if row is not first]
    differences = [difference for difference in differences if math.isfinite(difference)]
    if not differences:
        return number
    error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return f"{number} ({mean(differences):+.3f} ± {error:.3f})"
