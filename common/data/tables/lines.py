"""The lines of one table, column by column, for readers: a cell is understood once for all lines that hold it."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import repeat, starmap
from typing import TYPE_CHECKING, Final, TypeVar

from melfed.common.data.identity import doubt, normal_id
from melfed.common.data.images.image_names import without_suffixes
from melfed.common.data.images.image_types import read_image_type, read_manipulation
from melfed.common.data.tables.cells import LONGEST, is_unknown, read_age, read_binary, too_long
from melfed.common.data.tables.coded import Coded, each, rows_of
from melfed.common.data.tables.columns import NAMES
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.text_files import Cells
from melfed.common.data.vocabulary.diagnoses import Diagnosis, read_diagnosis, read_levels
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING, OPEN
from melfed.common.data.vocabulary.sex import read_sex
from melfed.common.data.vocabulary.sites import read_site, read_site_levels
from melfed.common.data.vocabulary.skin import read_fitzpatrick, read_ita, read_milk10k, read_monk
from melfed.common.data.vocabulary.terms import Term
from melfed.common.errors import DataError

if TYPE_CHECKING:
    from melfed.common.data.tables.tables import Table

T = TypeVar("T")
K = TypeVar("K")
Entities = frozenset[str]

MELANOMA: Final = CODES["mel"].entities
NO_MELANOMA: Final = EVERYTHING - MELANOMA - OPEN
MALIGNANT: Final = CODES["malignant"].entities
NOT_MALIGNANT: Final = EVERYTHING - MALIGNANT - OPEN
MISSING: Final = read_diagnosis("")
"""Nothing is said in words."""

_ASKED: Final = frozenset({"patient_id", "lesion_id", "diagnosis"})
"""Where two columns may both be meant, a person decides."""

_NAMES_SHOWN: Final = 4
_BEGINNING: Final = 40
"""Characters that are kept of a cell that is too long."""
_SKIN_SCALES: Final = {"monk": read_monk, "skin_tone_class": read_milk10k, "ita": read_ita}


class Lines:
    """What a reader sees of a table; every list has an item a line, and keys of columns are as `column_key` makes them.

    Attributes:
        table: the table.
        options: what a person says about it.
        problems: by index of the line, why it cannot be used.
        used: by name of a column as it is written, what it was taken for.
        unread: by what a column holds, the words in it that nobody understood, with their counts.
        patients: by normal id of a patient, how it is spelled.
        doubts: what may be wrong with ids, a line each, with how many.
    """

    def __init__(self, table: "Table", options: ReadOptions, strict: bool) -> None:
        self.table = table
        self.options = options
        self.used: dict[str, str] = {}
        self.unread: dict[str, Counter[str]] = {}
        self.patients: dict[str, set[str]] = {}
        self.doubts: list[str] = []
        self._strict = strict
        self._cells, long = table.cells()
        self.count = len(next(iter(self._cells.values()), ()))
        self.problems = {line: _unparted(cells, len(table.columns)) for line, cells in long.items()}
        for key, cells in self._cells.items():
            if lines := too_long(cells):
                self._cells[key] = self._shortened(key, list(cells), lines)

    def _shortened(self, key: str, cells: Cells, lines: Sequence[int]) -> Cells:
        """Cells of which none is long enough to keep anybody waiting; the lines of those that were have a problem."""
        name = self.table.written(key)
        for line in lines:
            cell = cells[line] or ""
            self.problem(
                line, f"the column {name} holds a cell of {len(cell):,} characters; give it at most {LONGEST:,}"
            )
            cells[line] = f"{cell[:_BEGINNING].strip()}…"
        return cells

    def has(self, key: str) -> bool:
        """Whether the table has a column."""
        return key in self._cells

    def text(self, meaning: str, *keys: str) -> list[str | None]:
        """Return the text of the first column of a line that holds something known; None where none does.

        Args:
            meaning: what the columns hold, as people are told.
            keys: the columns; without them, those of `NAMES[meaning]`, of which a table may have one.
        """
        here = [key for key in keys if key in self._cells] or self._near(meaning)
        columns = [self._known(key) for key in here]
        for key in here:
            self.used[self.table.written(key)] = meaning
        if not columns:
            return [None] * self.count
        if len(columns) == 1:
            return columns[0]
        return [next((cell for cell in cells if cell is not None), None) for cells in zip(*columns, strict=True)]

    def cells(self, key: str) -> Cells:
        """Return the cells of a column as they are written; None where they are empty."""
        return self._cells[key]

    def read(self, function: Callable[[str], "T | Term[T] | None"], meaning: str, *keys: str) -> list[T | None]:
        """Return what a function makes of the text of each line; what it does not understand is counted in `unread`.

        Args:
            function: takes a text that says something; returns a value, None, or a `Term`.
            meaning: what the columns hold, as people are told.
            keys: the columns, as `text` takes them.
        """
        return self._understood(function, meaning, self.text(meaning, *keys))

    def _understood(
        self, function: "Callable[[K], T | Term[T] | None]", meaning: str, cells: Sequence[K | None]
    ) -> list[T | None]:
        unread: set[K] = set()

        def understand(cell: K) -> T | None:
            found = function(cell)
            if found is None or (isinstance(found, Term) and found.reading == "unknown"):
                unread.add(cell)
            return found.value if isinstance(found, Term) else found

        values = each(understand, cells)
        if unread:
            counts = Counter(_shown(cell) for cell in cells if cell in unread)
            self.unread[meaning] = self.unread.get(meaning, Counter()) + counts
        return values

    def binary(self, key: str) -> list[int | None]:
        """Return a column that must be 0 or 1 in each line; where it is not, the line has a problem."""
        self.used[self.table.written(key)] = "target"
        cells = self._cells[key]
        values = each(read_binary, cells)
        if None in values:
            name = self.table.written(key)
            for line, value in enumerate(values):
                if value is None:
                    text = (cells[line] or "").strip()
                    self.problem(line, f"{name} is {text!r}, and only 0 or 1 is allowed; mend that cell")
        return values

    def stated(self, key: str, yes: Entities, no: Entities) -> list[Entities | None]:
        """Return what a column of 0 and 1 says that the lesion can be."""
        return [None if value is None else (yes if value else no) for value in self.binary(key)]

    def one_hot(self, keys: Sequence[str]) -> list[str | None]:
        """Return the one of several columns that is 1; a line without, or with several, has a problem."""
        chosen: list[str | None] = []
        for line, values in enumerate(zip(*(self.binary(key) for key in keys), strict=True)):
            ones = [key for key, value in zip(keys, values, strict=True) if value]
            chosen.append(ones[0] if len(ones) == 1 else None)
            if len(ones) != 1 and None not in values:
                names = ", ".join(self.table.written(key) for key in keys)
                self.problem(line, f"{len(ones)} of the columns {names} are 1; exactly one must be")
        return chosen

    def diagnoses(self, *keys: str) -> list[Diagnosis]:
        """Return what the words of a column say; of several, what all say together."""
        if len(keys) < 2:
            return self.worded(self.text("diagnosis", *keys))
        columns = [self.text("diagnosis", key) for key in keys if key in self._cells]
        return self._levelled(rows_of(columns))

    def levels(self, key: str, separator: str) -> list[Diagnosis]:
        """Return what the words of a column say together that hold several, from the coarsest to the finest."""
        texts = self.text("diagnosis", key)
        return self._levelled([tuple((text or "").split(separator)) for text in texts])

    def _levelled(self, levels: Sequence[tuple[str | None, ...]]) -> list[Diagnosis]:
        mapping = self.options.diagnoses
        return [found or MISSING for found in each(lambda words: read_levels(words, mapping), levels)]

    def worded(self, words: Sequence[str | None]) -> list[Diagnosis]:
        """Return what each word says; `MISSING` where there is none."""
        mapping = self.options.diagnoses
        return [found or MISSING for found in each(lambda word: read_diagnosis(word, mapping), words)]

    def coded(self, names: Sequence[str | None]) -> list[Diagnosis]:
        """Return what each code of the vocabulary says; `MISSING` where there is none."""
        return [found or MISSING for found in each(_of_code, names)]

    def image_types(self, key: str) -> list[str | None]:
        """Return the kinds of the pictures by the archive's words in a column."""
        return self.read(read_image_type, "image_type", key) if key in self._cells else [None] * self.count

    def problem(self, line: int, text: str) -> None:
        """Note why a line cannot be used; the first reason is kept."""
        self.problems.setdefault(line, text)

    def rows(
        self,
        diagnosis: Sequence[Diagnosis],
        stated: Sequence[Entities | None] | None = None,
        *,
        image: Sequence[str] = (),
        patient_id: Sequence[str] = (),
        lesion_id: Sequence[str] = (),
        age: Sequence[str] = (),
        sex: Sequence[str] = (),
        site: Sequence[str] = (),
        source: Sequence[str | None] | None = None,
        image_type: Sequence[str | None] | str | None = None,
        skin_type: Sequence[str] = (),
    ) -> list[Row]:
        """Return a row for each line that holds anything.

        Args:
            diagnosis: what each line's words say.
            stated: what each line's target says.
            image: keys of the columns that name the image; the following likewise. Without any, all near names.
            patient_id: of the patient.
            lesion_id: of the lesion.
            age: of the age.
            sex: of the sex.
            site: of the body site.
            source: of each line; without, the column `source` or none.
            image_type: of each line, or of all; without, a column of the archive.
            skin_type: keys of the columns of Fitzpatrick's type.
        """
        images = self._images(image)
        types = self._types(image_type)
        sexes: list[str | None] = self.read(read_sex, "sex", *sex)
        rows = list(
            starmap(
                Row,
                zip(
                    images,
                    repeat(self.table),
                    range(self.count),
                    diagnosis,
                    stated or repeat(None),
                    self._patients(patient_id),
                    self._ids("lesion_id", lesion_id)[1],
                    self.text("dup_group"),
                    self.read(read_age, "age", *age),
                    sexes,
                    self._sites(site),
                    source if source is not None else self.text("source"),
                    types,
                    self._skin_types(skin_type),
                    each(read_manipulation, self.text("manipulated")),
                    strict=False,
                ),
            )
        )
        if None in images:
            rows = [row for row in rows if row.image is not None]
        if self.problems:
            for row in rows:
                row.problem = self.problems.get(row.line)
        return rows

    def _patients(self, keys: Sequence[str]) -> list[str | None]:
        """Normal ids, noting how each is spelled."""
        spelled, names = self._ids("patient_id", keys)
        both = (
            (spelled.values, names.values)
            if isinstance(spelled, Coded) and isinstance(names, Coded)
            else (spelled, names)
        )
        for spelling, name in set(zip(*both, strict=True)):
            if name is not None and spelling is not None:
                self.patients.setdefault(name, set()).add(spelling)
        return names

    def _ids(self, meaning: str, keys: Sequence[str]) -> tuple[list[str | None], list[str | None]]:
        """Ids as they are written and normal ones, noting those that a spreadsheet may have changed."""
        spelled = self.text(meaning, *keys)
        names = self._understood(normal_id, meaning, spelled)
        different = spelled.values if isinstance(spelled, Coded) else set(spelled)
        if doubtful := {cell: text for cell in different if cell is not None and (text := doubt(cell)) is not None}:
            counts = Counter(doubtful[cell] for cell in spelled if cell in doubtful)
            self.doubts += [
                f"{self.table.name}: {count} cells of {meaning} are {text}; export the column as text"
                for text, count in counts.most_common()
            ]
        return spelled, names

    def _images(self, keys: Sequence[str]) -> list[str | None]:
        """The name of the image in each line; None in lines of nothing, and a problem where only it is missing."""
        here = [key for key in keys if key in self._cells] or self._near("image")
        self.used.update((self.table.written(key), "image") for key in here)
        cells = without_suffixes([cell.strip() if cell else "" for cell in self._cells[here[0]]])
        names: list[str | None] = [cell or None for cell in cells]
        for key in here[1:]:
            others = self._cells[key]
            names = [name or (other and other.strip()) or None for name, other in zip(names, others, strict=True)]
        if None not in names:
            return names
        filled = list(zip(*self._cells.values(), strict=True))
        column = self.table.written(keys[0]) if keys else "image"
        for line, name in enumerate(names):
            if name is None and any(cell and cell.strip() for cell in filled[line]):
                self.problem(line, f"the column {column} is empty; name the image or delete the line")
                names[line] = ""
        return names

    def _sites(self, keys: Sequence[str]) -> list[str | None]:
        """One of `sites.SITES`; of several columns, each is more precise than the one before."""
        here = [key for key in keys if key in self._cells]
        if len(here) < 2:
            return self.read(read_site, "site", *here)
        levels = rows_of([self.text("site", key) for key in here])
        return self._understood(read_site_levels, "site", [cells if any(cells) else None for cells in levels])

    def _skin_types(self, keys: Sequence[str]) -> list[int | None]:
        """Fitzpatrick's type, from a column of it, else of Monk's scale, of MILK10k's or of angles."""
        for scale, function in _SKIN_SCALES.items():
            if any(key in self._cells for key in NAMES[scale]):
                return self.read(function, "skin_type", *(key for key in NAMES[scale] if key in self._cells))
        return self.read(read_fitzpatrick, "skin_type", *keys)

    def _types(self, given: Sequence[str | None] | str | None) -> Sequence[str | None]:
        if isinstance(given, str):
            return [given] * self.count
        return given if given is not None else self.read(read_image_type, "image_type")

    def _near(self, meaning: str) -> list[str]:
        """The column that holds something by its near name; two of them are a question."""
        here = [key for key in NAMES[meaning] if key in self._cells and self.table.written(key) not in self.used]
        if len(here) > 1 and here[0] != NAMES[meaning][0] and meaning in _ASKED and self._strict:
            names = " and ".join(self.table.written(key) for key in here[:_NAMES_SHOWN])
            raise DataError(f"{self.table.name}: {names} may both be {meaning}; call the right one {meaning}")
        return here[:1]

    def _known(self, key: str) -> list[str | None]:
        return each(_known_text, self._cells[key])


def _unparted(cells: int | None, columns: int) -> str:
    """Why nobody can tell which cells a line has."""
    if cells is None:
        return "its quotes do not end; close them, and take ends of lines out of cells"
    return f"{cells} cells below {columns} columns; put quotes around text that holds the separator"


def _known_text(cell: str) -> str | None:
    return None if is_unknown(cell) else cell.strip()


def _shown(cell: object) -> str:
    return " / ".join(text for text in cell if text) if isinstance(cell, tuple) else str(cell)


def _of_code(name: str) -> Diagnosis:
    return Diagnosis(name, "known", CODES[name].entities)
