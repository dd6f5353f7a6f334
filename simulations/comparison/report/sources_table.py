"""`sources.csv`: a row a cell and source of its test part, where the test part has several sources."""

import csv
import io
from pathlib import Path

from melfed.common.files import write_text
from melfed.simulations.comparison.finding import Finding
from melfed.simulations.comparison.grid import label

NAME = "sources.csv"
COLUMNS = (
    "name",
    "configuration",
    "source",
    "images",
    "melanomas",
    "patients_of_rarer_class",
    "withheld",
    "auroc",
    "low",
    "high",
)


def write_sources(out: Path, found: Finding) -> None:
    """Write each source's own figures of each run; no file where nothing has several sources. Raises StorageError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    results = [result for result in found.results if result.by_source]
    for result in results:
        for own in result.by_source.sources if result.by_source else ():
            counts = own.name, own.images, own.melanomas, own.fewest, str(own.withheld).lower()
            limits = own.auroc.value, own.auroc.low, own.auroc.high
            writer.writerow((result.name, label(result.configuration), *counts, *limits))
    if results:
        write_text(out / NAME, text.getvalue())
