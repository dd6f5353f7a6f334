"""Derm7pt: cases with a dermoscopic and a clinical image each; patients are not published, a case is a lesion.

Source: Kawahara et al., IEEE JBHI 2018; `meta/meta.csv`, whose paths are below `images/`.
"""

from dataclasses import replace

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    rows = lines.rows(
        lines.diagnoses("diagnosis"),
        image=("derm",),
        lesion_id=("casenum",),
        site=("location",),
        source=[None] * lines.count,
        image_type="dermoscopic",
    )
    clinical = lines.text("image", "clinic")
    return [
        *rows,
        *(replace(row, image=name, image_type="clinical") for row in rows if (name := clinical[row.line]) is not None),
    ]


KINDS = (
    TableKind("Derm7pt", ("casenum", "diagnosis", "clinic", "derm"), _read, optional=("location",), source="Derm7pt"),
)
