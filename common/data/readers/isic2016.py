"""ISIC 2016 (ISBI challenge, part 3): an image and `benign` or `malignant`, published without a header line.

All its malignant images are melanomas (Gutman et al., arXiv 1605.01397). The test part writes `0.0` and `1.0`.
Source: https://challenge.isic-archive.com/data/#2016
"""

import re

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.cells import folded, read_binary
from melfed.common.data.tables.coded import each
from melfed.common.data.tables.lines import MELANOMA, MISSING, NO_MELANOMA, Lines
from melfed.common.data.tables.rows import Row

_WORDS = {"malignant": MELANOMA, "benign": NO_MELANOMA}


def _read(lines: Lines) -> list[Row]:
    labels = lines.cells("label")
    stated = each(_meaning, labels)
    for line, entities in enumerate(stated):
        if entities is None and labels[line] is not None:
            lines.problem(line, f"the label is {labels[line]!r}, and only benign, malignant, 0 or 1 is allowed")
    return lines.rows([MISSING] * lines.count, stated, image=("imgid",), image_type="dermoscopic")


def _meaning(label: str) -> frozenset[str] | None:
    value = read_binary(label)
    if value is not None:
        return MELANOMA if value else NO_MELANOMA
    return _WORDS.get(folded(label))


KINDS = (
    TableKind(
        "ISIC 2016",
        ("imgid", "label"),
        _read,
        source="ISIC2016",
        headerless=(re.compile(r"ISIC_\d{7}"), re.compile(r"benign|malignant|[01](\.0)?")),
    ),
)
