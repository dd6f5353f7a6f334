"""Whether a row is a positive of a study, a negative, or left out, and why."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from melfed.common.data.images.image_types import SYNTHETIC, UNUSUAL
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.vocabulary.entities import code_of
from melfed.common.errors import DataError

Cause = Literal["unknown word", "undecided", "no diagnosis", "cannot be used", "kind of picture"]

Key = tuple[int, int, str | None, str | None]

_WORDS_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class LeftOutRow:
    """A row that no record was made of; for the people whose data it is, since it names an image and its words."""

    image: str
    where: str
    """Table and line."""
    cause: Cause
    reason: str


class UnknownWords(DataError):  # noqa: N818 (a kind of DataError)
    """Diagnoses that the vocabulary does not have.

    Attributes:
        words: each with the number of rows.
    """

    def __init__(self, words: Counter[str]) -> None:
        self.words = words
        listed = ", ".join(f"'{word}' ({count})" for word, count in words.most_common(_WORDS_SHOWN))
        more = f" and {len(words) - _WORDS_SHOWN} more" if len(words) > _WORDS_SHOWN else ""
        super().__init__(
            f"{len(words)} diagnoses are not in the vocabulary: {listed}{more}; map each, as in --diagnosis "
            "'WORD=mel', 'WORD=ben_oth' or 'WORD=leave_out' (diagnoses: in clinic.yaml)"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about a lesion, in terms of a study.

    Attributes:
        target: 1 for a positive, 0 for a negative, None where it is open.
        code: the class that reports count it under, None where that is open.
        cause: why it is left out; None where it is not.
        reason: the same in words.
    """

    target: int | None
    code: str | None
    cause: Cause | None = None
    reason: str = ""


class Decisions:
    """Decides row by row, each by itself alone."""

    def __init__(self, positives: frozenset[str], options: ReadOptions) -> None:
        """Begin.

        Args:
            positives: entities, from `vocabulary.entities.positive_entities`.
            options: which kinds of pictures are taken.
        """
        self._positives = positives
        self._refused_types = UNUSUAL - options.image_types
        self._synthetic = options.synthetic

    @staticmethod
    def key(row: Row) -> Key:
        """Return what is equal for rows that say the same: they share their diagnosis and what is stated.

        Good for as long as the rows live.
        """
        return id(row.diagnosis), id(row.stated), row.image_type, row.manipulated

    def of(self, row: Row) -> Verdict:
        """Return what becomes of a row that has no problem of its own."""
        if row.image_type in self._refused_types:
            return Verdict(None, None, "kind of picture", f"image type {row.image_type}")
        if row.manipulated == SYNTHETIC and not self._synthetic:
            return Verdict(None, None, "kind of picture", "synthetic")
        return self._decided(row)

    def _decided(self, row: Row) -> Verdict:
        could_be = row.could_be
        if not could_be:
            return Verdict(None, None, *_why_open(row))
        code = code_of(could_be)
        name = code.coarse if code else None
        target = replace(row.diagnosis, could_be=could_be).target(self._positives)
        if row.diagnosis.reading == "undecided" and row.diagnosis.target(self._positives) is None:
            target = None  # a column of 0 and 1 does not settle what the diagnosis says is open
        return Verdict(target, name) if target is not None else Verdict(None, name, *_why_open(row))


def _why_open(row: Row) -> tuple[Cause, str]:
    word = f"diagnosis '{row.diagnosis.word}'"
    if row.diagnosis.reading == "unknown":
        return "unknown word", f"{word} is not in the vocabulary"
    if row.diagnosis.reading == "missing":
        return "no diagnosis", "no diagnosis that settles whether it is a positive"
    if not row.could_be:
        return "cannot be used", f"{word} contradicts the target; mend one of the two cells"
    return "undecided", f"{word} leaves open whether it is a positive"


def refuse_what_is_open(left_out: Iterable[tuple[Row, Cause, str]], positive: Sequence[str]) -> None:
    """Raise for rows that nobody may pass over: contradictions, words that nobody knows, no diagnosis at all.

    Args:
        left_out: rows that are left out, and why.
        positive: what the study asks for.

    Raises:
        DataError: the first such row, or all unknown words with their counts.
    """
    unknown: Counter[str] = Counter()
    for row, cause, reason in left_out:
        if cause == "cannot be used":
            raise DataError(f"{row.where}: {reason}")
        if cause == "unknown word":
            unknown[row.diagnosis.word] += 1
        elif cause == "no diagnosis" and not (row.table.kind and row.table.kind.open_rows):
            raise DataError(
                f"{row.where}: the diagnosis of '{row.image}' is not known well enough to tell whether it is one "
                f"of {', '.join(sorted(positive))}; give it, or study melanoma alone (positive: [mel])"
            )
    if unknown:
        raise UnknownWords(unknown)
