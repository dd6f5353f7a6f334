"""Images sorted into folders by class, without a table: what each folder shows is what a person says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from melfed.common.data.readers.kinds import NO_ID, TableKind
from melfed.common.data.tables.cells import folded
from melfed.common.data.tables.lines import MELANOMA, MISSING, NO_MELANOMA
from melfed.common.data.tables.rows import Row
from melfed.common.data.tables.tables import Table, short_list
from melfed.common.data.tables.text_files import Cells
from melfed.common.data.vocabulary.diagnoses import Diagnosis, read_diagnosis
from melfed.common.data.vocabulary.entities import CODES
from melfed.common.errors import DataError

LAYOUT: Final = "folders by class"
MALIGNANT_IS_NOT_MELANOMA: Final = "malignant is not melanoma: it includes other cancers"

_STATED: Final = {"0": NO_MELANOMA, "1": MELANOMA}
_KIND: Final = TableKind(LAYOUT, (), lambda _: [], patients=NO_ID, lesions=NO_ID)


@dataclass(frozen=True)
class _Images:
    """The images in place of the lines of a file."""

    path: Path
    images: tuple[str, ...]

    def columns(self, wanted: Sequence[int]) -> tuple[list[Cells], dict[int, int]]:
        return [[] for _ in wanted], {}

    def place(self, line: int) -> str:
        return self.images[line]


def rows_of_folders(
    root: Path, images: Sequence[str], classes: Mapping[str, str], strict: bool = True
) -> tuple[Table, list[Row]]:
    """Return a row for each image in a folder that is a class.

    Args:
        root: the data folder.
        images: paths relative to it.
        classes: by name of a folder, in any case, `0` (no melanoma), `1` (melanoma) or a code of the vocabulary.
        strict: whether images decide about the folder. Where not, each is judged by itself: one in folders of two
            classes has a row of each of them with a problem, and a class may have no images.

    Raises:
        DataError: a class has another meaning; where `strict`, also one without a folder, or an image in folders of
            two classes.
    """
    meanings = {folded(name): _meaning(name, value) for name, value in classes.items()}
    file = _Images(root / LAYOUT, tuple(images))
    table = Table(file.path, root.name, (), _KIND, file)
    rows, seen = [], set()
    for line, image in enumerate(images):
        here = {name for part in PurePosixPath(image).parts[:-1] if (name := folded(part)) in meanings}
        problem = None
        if len(here) > 1:
            problem = f"'{image}' is in folders of two classes ({short_list(sorted(here))}); keep one"
        if strict and problem:
            raise DataError(f"{root}: {problem}")
        for name in here:
            diagnosis, stated = meanings[name]
            rows.append(Row(image, table, line, diagnosis, stated, source=root.name, problem=problem))
        seen |= here
    if strict and (missing := sorted(set(meanings) - seen)):
        raise DataError(f"{root}: no folder {short_list(missing)} with images; classes are named after folders")
    return table, rows


def notes_of_classes(classes: Mapping[str, str]) -> tuple[str, ...]:
    """What people should know about classes that they named."""
    called = [name for name, value in classes.items() if value == "1" and folded(name).startswith("malign")]
    return tuple(
        f"folder {name}: {MALIGNANT_IS_NOT_MELANOMA}; taken for melanomas, as --classes says" for name in called
    )


def ask_for_classes(images: Iterable[str]) -> str | None:
    """Say how to name the classes, where the images of a folder without a table lie in folders that look like such."""
    folders = dict.fromkeys(part for image in images for part in PurePosixPath(image).parts[:-1])
    names = [name for name in folders if read_diagnosis(name).reading not in ("unknown", "missing")]
    if len(names) < 2:
        return None
    example = ",".join(f"{name}={_suggested(name)}" for name in names)
    warning = f" ({MALIGNANT_IS_NOT_MELANOMA})" if any(folded(name).startswith("malign") for name in names) else ""
    return f"folders {short_list(names)} look like classes: say what they show, such as --classes {example}{warning}"


def _suggested(name: str) -> str:
    target = read_diagnosis(name).target(MELANOMA)
    return "?" if target is None else str(target)


def _meaning(name: str, value: str) -> tuple[Diagnosis, frozenset[str] | None]:
    plain = folded(value)
    if plain in _STATED:
        return MISSING, _STATED[plain]
    if plain not in CODES:
        raise DataError(
            f"classes: '{name}' is '{value}'; give 0 (no melanoma), 1 (melanoma) or one of {', '.join(CODES)}"
        )
    code = CODES[plain]
    return Diagnosis(plain, "known" if code.decided else "undecided", code.entities), None
