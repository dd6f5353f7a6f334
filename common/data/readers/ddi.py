"""DDI (Diverse Dermatology Images): photographs with a disease, malignant or not, of skin tones I–II, III–IV, V–VI.

The tones are pairs of Fitzpatrick's types and no single one. Patients are not published.
Source: Daneshjou et al., Science Advances 2022; `ddi_metadata.csv`
"""

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row


def _read(lines: Lines) -> list[Row]:
    return lines.rows(lines.diagnoses("disease"), image=("ddifile",), image_type="clinical")


KINDS = (TableKind("DDI", ("ddifile", "malignant", "disease"), _read, source="DDI"),)
