"""`clinic_rounds.csv`: a line a round and clinic, for who wants to see each clinic over time."""

import csv
import io
from collections import defaultdict
from typing import Any

from melfed.common.files import write_text
from melfed.server.runs.folder import RunFolder

NAME = "clinic_rounds.csv"
TRAINED = ("train_loss", "weight", "bytes_up")
COUNTED = ("patients", "images", "melanomas")
INTERVALS = ("auroc", "auprc", "balanced_accuracy")
NUMBERS = ("brier", "ece")
COLUMNS = (
    *("round", "clinic", *TRAINED, *COUNTED),
    *(f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high")),
    *NUMBERS,
)


def write_clinic_rounds(folder: RunFolder) -> None:
    """Write a run's table: what each clinic's training gave, and how the round's model does on its validation part.

    What is undefined, or was not told (the loss in a private study), is empty. Raises StorageError.
    """
    rows: dict[tuple[int, str], dict[str, Any]] = defaultdict(dict)
    for event in folder.events():
        # A run that melfed 0.1 began tells of no clinic.
        for name, told in event.get("clinics", {}).items():
            of_training = event["event"] == "round"
            rows[event["round"], name] |= {c: told[c] for c in TRAINED} if of_training else _columns(told)
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for (number, name), row in sorted(rows.items()):
        writer.writerow({"round": number, "clinic": name, **row})
    write_text(folder.path / NAME, text.getvalue())


def _columns(metrics: dict[str, Any]) -> dict[str, Any]:
    row = {name: metrics[name] for name in (*COUNTED, *NUMBERS)}
    for name in INTERVALS:
        interval = metrics[name]
        row |= {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
    return row
