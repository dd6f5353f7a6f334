"""ISIC 2019: one of eight classes or none of them; age, sex, site and lesion in a table of their own.

With it goes Fed-ISIC2019, the split by six centres (FLamby; Ogier du Terrail et al., 2022), which has the classes too
and is read alone as well. 2,074 ids carry `_downsampled`. Source: https://challenge.isic-archive.com/data/#2019
"""

from typing import Final

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import MISSING, Lines
from melfed.common.data.tables.rows import Row
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING, OPEN

CLASSES: Final = ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc", "unk")
_NONE_OF_THEM: Final = EVERYTHING.difference(OPEN, *(CODES[name].entities for name in CLASSES[:-1]))


def _truth(lines: Lines) -> list[Row]:
    return _rows(lines)


def _split(lines: Lines) -> list[Row]:
    centres = lines.text("source", "center")
    return _rows(lines, [f"center_{centre.removesuffix('.0')}" if centre else None for centre in centres])


def _rows(lines: Lines, source: list[str | None] | None = None) -> list[Row]:
    classes = lines.one_hot(CLASSES)
    diagnoses = lines.coded([None if name == "unk" else name for name in classes])
    stated = [_NONE_OF_THEM if name == "unk" else None for name in classes]
    return lines.rows(diagnoses, stated, image=("image",), source=source, image_type="dermoscopic")


def _metadata(lines: Lines) -> list[Row]:
    return lines.rows([MISSING] * lines.count, image=("image",), age=("ageapprox",), site=("anatomsitegeneral",))


KINDS = (
    TableKind("ISIC 2019", ("image", *CLASSES, "center", "fold"), _split, source="ISIC2019"),
    TableKind("ISIC 2019", ("image", *CLASSES), _truth, source="ISIC2019"),
    TableKind("ISIC 2019", ("image", "ageapprox", "anatomsitegeneral"), _metadata, "addition", source="ISIC2019"),
)
