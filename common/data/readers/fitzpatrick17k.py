"""Fitzpatrick17k: photographs from two atlases with a condition and Fitzpatrick's skin type (-1: not known).

Images are named by the `md5hash` of the table. Patients are not published.
Source: Groh et al., CVPR workshops 2021; https://github.com/mattgroh/fitzpatrick17k
"""

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    return lines.rows(
        lines.diagnoses("label"), image=("md5hash",), skin_type=("fitzpatrickscale",), image_type="clinical"
    )


KINDS = (TableKind("Fitzpatrick17k", ("md5hash", "label", "fitzpatrickscale"), _read, source="Fitzpatrick17k"),)
