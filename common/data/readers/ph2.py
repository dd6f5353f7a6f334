"""PH²: 200 dermoscopic images of naevi and melanomas, in a workbook (a cross a class) and in a text file (a number).

In the text file `Clinical Diagnosis` is 0 for a common naevus, 1 for an atypical one, 2 for a melanoma. Neither
patients nor lesions are published. Source: Mendonça et al., EMBC 2013
"""

from typing import Final

from melfed.common.data.readers.kinds import TableKind
from melfed.common.data.tables.lines import Lines
from melfed.common.data.tables.rows import Row

_CROSSED: Final = {"commonnevus": "common nevus", "atypicalnevus": "atypical nevus", "melanoma": "melanoma"}
_NUMBERED: Final = {"0": "common nevus", "1": "atypical nevus", "2": "melanoma"}


def _workbook(lines: Lines) -> list[Row]:
    crosses = list(zip(*(lines.cells(key) for key in _CROSSED), strict=True))
    words: list[str | None] = []
    for line, marks in enumerate(crosses):
        crossed = [word for mark, word in zip(marks, _CROSSED.values(), strict=True) if mark and mark.strip()]
        words.append(crossed[0] if len(crossed) == 1 else None)
        if len(crossed) > 1:
            lines.problem(line, "several of the columns Common Nevus, Atypical Nevus, Melanoma are crossed; keep one")
    return lines.rows(lines.worded(words), image=("imagename",), image_type="dermoscopic")


def _text(lines: Lines) -> list[Row]:
    numbers = lines.text("diagnosis", "clinicaldiagnosis")
    for line, number in enumerate(numbers):
        if number is not None and number not in _NUMBERED:
            lines.problem(line, f"Clinical Diagnosis is {number!r}, and only 0, 1 or 2 is allowed; mend that cell")
    words = [_NUMBERED.get(number or "") for number in numbers]
    return lines.rows(lines.worded(words), image=("name",), image_type="dermoscopic")


KINDS = (
    TableKind("PH2", ("imagename", *_CROSSED), _workbook, source="PH2"),
    TableKind("PH2", ("name", "histologicaldiagnosis", "clinicaldiagnosis"), _text, source="PH2"),
)
