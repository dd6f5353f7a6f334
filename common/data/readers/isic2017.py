"""ISIC 2017 (part 3): melanoma or not, seborrheic keratosis or not; age and sex in a table of their own.

What is neither is a benign naevus; where the second column is missing, nobody knows what is no melanoma.
Source: https://challenge.isic-archive.com/data/#2017
"""

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import MELANOMA, MISSING, NO_MELANOMA, Lines
from melfed.common.data.tables.rows import Row


def _truth(lines: Lines) -> list[Row]:
    melanoma = lines.binary("melanoma")
    keratosis = lines.binary("seborrheickeratosis") if lines.has("seborrheickeratosis") else [None] * lines.count
    names: dict[tuple[int | None, int | None], str] = {(0, 0): "nv", (0, 1): "sk", (1, 0): "mel", (1, None): "mel"}
    both = list(zip(melanoma, keratosis, strict=True))
    for line, values in enumerate(both):
        if values == (1, 1):
            lines.problem(line, "melanoma and seborrheic_keratosis are both 1; mend one of the two cells")
    stated = [None if value is None else (MELANOMA if value else NO_MELANOMA) for value in melanoma]
    diagnoses = lines.coded([names.get(values) for values in both])
    return lines.rows(diagnoses, stated, image=("imageid",), image_type="dermoscopic")


def _metadata(lines: Lines) -> list[Row]:
    return lines.rows([MISSING] * lines.count, image=("imageid",), age=("ageapproximate",))


KINDS = (
    TableKind("ISIC 2017", ("imageid", "melanoma"), _truth, optional=("seborrheickeratosis",), source="ISIC2017"),
    TableKind("ISIC 2017", ("imageid", "ageapproximate", "sex"), _metadata, "addition", source="ISIC2017"),
)
