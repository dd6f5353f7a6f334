"""What a cell of a closed vocabulary (site, sex, skin type) was read as."""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Term(Generic[T_co]):
    """A word and its value."""

    word: str
    """As it is written, without blanks around it."""
    value: T_co | None
    """None where it is not known."""
    reading: Literal["known", "unknown", "missing"]
    """`unknown` where the word is not in the vocabulary, `missing` where the cell says nothing."""
