"""PAD-UFES-20: photographs of smart phones, with patients; lesions are numbered anew by patient.

The same lesion number occurs with several patients (250 of 1,641 numbers), so lesions are scoped by patient.
Source: Pacheco et al., Data in Brief 2020, doi:10.17632/zr7vgbcyr2.1
"""

from melfed.common.data.readers.kinds import NO_ID, TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    return lines.rows(
        lines.diagnoses("diagnostic"),
        image=("imgid",),
        sex=("gender",),
        site=("region",),
        skin_type=("fitspatrick",),
        image_type="clinical",
    )


KINDS = (
    TableKind(
        "PAD-UFES-20",
        ("imgid", "diagnostic", "patientid", "lesionid"),
        _read,
        lesions=NO_ID,
        source="PAD-UFES-20",
    ),
)
