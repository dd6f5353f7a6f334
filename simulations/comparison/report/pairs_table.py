"""`comparisons.csv`: every pair of configurations, with the difference, its interval, and p values."""

import csv
import io
from pathlib import Path

from melfed.common.files import write_text
from melfed.simulations.comparison.finding import Finding
from melfed.simulations.comparison.grid import label

NAME = "comparisons.csv"
COLUMNS = ("first", "second", "metric", "runs", "difference", "low", "high", "p", "p_holm", "method", "shown")


def write_pairs(out: Path, found: Finding) -> None:
    """Write all pairs. Raises StorageError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for pair in found.compared.pairs:
        d = pair.difference
        numbers = (d.value, d.low, d.high, d.p, pair.adjusted)
        names = label(pair.first), label(pair.second), pair.metric, pair.runs
        writer.writerow((*names, *numbers, d.method, str(pair.shown).lower()))
    write_text(out / NAME, text.getvalue())
