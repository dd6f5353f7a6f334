"""melfed's own table: an image, and whether it shows a melanoma (`target`) or what it shows (`diagnosis`).

Further columns: `patient_id, lesion_id, dup_group, age, sex, site, source, image_type, skin_type`, under their own
names or near ones (`columns.NAMES`). Ids are their source's own unless a person says that they are shared, or they are
published ones that are unique anyway.
"""

from collections.abc import Set as AbstractSet

from melfed.common.data.readers.kinds import PUBLISHED_LESION, PUBLISHED_PATIENT, TableKind
from melfed.common.data.tables.columns import NAMES
from melfed.common.data.tables.lines import MELANOMA, MISSING, NO_MELANOMA, Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    stated = lines.stated("target", MELANOMA, NO_MELANOMA) if lines.has("target") else None
    has_words = any(lines.has(key) for key in NAMES["diagnosis"])
    diagnoses = lines.diagnoses() if has_words else [MISSING] * lines.count
    rows = lines.rows(diagnoses, stated)
    for row in rows:
        row.image = row.image.replace("\\", "/")
    return rows


def _matches(keys: AbstractSet[str]) -> bool:
    return any(key in keys for key in NAMES["image"]) and any(key in keys for key in ("target", *NAMES["diagnosis"]))


KINDS = (
    TableKind("melfed", ("image", "target"), _read, patients=PUBLISHED_PATIENT, lesions=PUBLISHED_LESION),
    TableKind(
        "melfed", ("image", "diagnosis"), _read, patients=PUBLISHED_PATIENT, lesions=PUBLISHED_LESION, matches=_matches
    ),
)
