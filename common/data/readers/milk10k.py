"""MILK10k (ISIC 2025): one of eleven classes a lesion, and two images of it, dermoscopic and clinical.

The ground truth names lesions, the metadata their images; a supplement has the precise diagnoses. Nine lesions of the
class MAL_OTH are collisions with a malignant part, which only the supplement tells: without it, what is MAL_OTH may be
a melanoma or not.
Source: https://challenge.isic-archive.com/data/#milk10k; doi:10.34970/648456
"""

from dataclasses import replace
from typing import Final

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import MISSING, Lines
from melfed.common.data.tables.rows import Row
from melfed.common.data.vocabulary.entities import OPEN

CLASSES: Final = ("akiec", "bcc", "benoth", "bkl", "df", "inf", "maloth", "mel", "nv", "sccka", "vasc")
_WORDS: Final = {"benoth": "ben_oth", "maloth": "mal_oth"}


def _truth(lines: Lines) -> list[Row]:
    classes = lines.one_hot(CLASSES)
    diagnoses = lines.coded([_WORDS.get(name, name) if name else None for name in classes])
    for line, name in enumerate(classes):
        if name == "maloth":
            diagnoses[line] = replace(diagnoses[line], could_be=diagnoses[line].could_be | OPEN)
    return lines.rows(diagnoses, image=("lesionid",), lesion_id=("lesionid",))


def _metadata(lines: Lines) -> list[Row]:
    source = lines.text("source", "attribution")
    return lines.rows([MISSING] * lines.count, image=("isicid",), age=("ageapprox",), site=("site",), source=source)


def _supplement(lines: Lines) -> list[Row]:
    return lines.rows(lines.diagnoses("diagnosisfull"), image=("isicid",))


KINDS = (
    TableKind("MILK10k", ("lesionid", *CLASSES), _truth, "lesion truth", source="MILK10k"),
    TableKind(
        "MILK10k",
        ("lesionid", "isicid", "imagetype", "skintoneclass"),
        _metadata,
        "addition",
        optional=("attribution",),
        source="MILK10k",
    ),
    TableKind("MILK10k", ("isicid", "diagnosisfull"), _supplement, "addition", source="MILK10k"),
)
