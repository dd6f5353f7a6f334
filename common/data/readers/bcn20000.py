"""BCN20000: dermoscopic images of Hospital Clínic de Barcelona, with lesions; patients are not published.

Source: Hernández-Pérez et al., Scientific Data 2024, doi:10.6084/m9.figshare.24140028
"""

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    return lines.rows(
        lines.diagnoses("diagnosis"),
        image=("bcnfilename",),
        age=("ageapprox",),
        site=("anatomsitegeneral",),
        image_type="dermoscopic",
    )


KINDS = (TableKind("BCN20000", ("bcnfilename", "diagnosis"), _read, source="BCN20000"),)
