"""ISIC 2018 (task 3): one of seven classes, and in a table of their own the lesions.

Source: https://challenge.isic-archive.com/data/#2018. The official scorer (isic-challenge-scoring 5.6) gives
`ISIC_0035068` of the test part the weight 0, since it is synthetic: official figures are of 1,511 of its 1,512 images.
"""

from collections.abc import Sequence
from typing import Final

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import MISSING, Lines
from melfed.common.data.tables.rows import Row

CLASSES: Final = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")
UNSCORED: Final = "ISIC_0035068"


def _truth(lines: Lines) -> list[Row]:
    return lines.rows(lines.coded(lines.one_hot(CLASSES)), image=("image",), image_type="dermoscopic")


def _lesions(lines: Lines) -> list[Row]:
    return lines.rows([MISSING] * lines.count, image=("image",))


def _notes(rows: Sequence[Row]) -> tuple[str, ...]:
    if not any(row.image == UNSCORED for row in rows):
        return ()
    return (f"{UNSCORED} is synthetic: official figures of ISIC 2018 are of 1,511 test images, without it",)


KINDS = (
    TableKind("ISIC 2018", ("image", *CLASSES), _truth, source="ISIC2018", notes=_notes),
    TableKind("ISIC 2018", ("image", "lesionid", "diagnosisconfirmtype"), _lesions, "addition", source="ISIC2018"),
)
