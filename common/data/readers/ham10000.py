"""HAM10000: dermoscopic images from four sources, with lesions; and its many re-exports, with or without `dataset`.

Source: Tschandl et al., Scientific Data 2018, doi:10.7910/DVN/DBW86T
"""

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    datasets = lines.text("source", "dataset") if lines.has("dataset") else [None] * lines.count
    diagnoses = lines.diagnoses("dx")
    for line, diagnosis in enumerate(diagnoses):
        if diagnosis.reading == "missing":
            lines.problem(line, "dx is empty; give the diagnosis or delete the line")
    return lines.rows(
        diagnoses,
        image=("imageid",),
        image_type="dermoscopic",
        site=("localization",),
        source=[f"HAM_{dataset}" if dataset else None for dataset in datasets],
    )


KINDS = (
    TableKind("HAM10000", ("imageid", "lesionid", "dx"), _read, source="HAM10000"),
    TableKind("HAM10000", ("imageid", "dx"), _read, source="HAM10000"),
)
