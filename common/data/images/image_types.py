"""How a picture was taken, in the words of the ISIC archive: a dermoscope, a camera, a microscope, a program.

Source: the fields `image_type` and `image_manipulation` of the archive's metadata (isic-metadata 6.1).
"""

from functools import lru_cache
from typing import Final

from melfed.common.data.tables.cells import folded

UNUSUAL: Final = frozenset({"rcm"})
"""Kinds that show no skin surface in colour; left out unless they are asked for."""

SYNTHETIC: Final = "synthetic"

_AS_TAKEN: Final = frozenset({"instrument only", "none", "no", "unaltered", "original"})


@lru_cache(maxsize=256)
def read_image_type(text: str) -> str | None:
    """Return one of the study's `ImageType`s; None for words that are none.

    >>> read_image_type("clinical: close-up"), read_image_type("RCM: mosaic"), read_image_type("TBP tile: overview")
    ('clinical', 'rcm', 'tbp overview')
    """
    plain = folded(text)
    overview = "overview" in plain
    if plain.startswith(("derm", "polari", "contact", "non-contact", "auflicht")):
        return "dermoscopic"
    if plain.startswith("tbp") or "total body" in plain:
        return "tbp overview" if overview else "tbp tile"
    if plain.startswith("rcm") or "confocal" in plain:
        return "rcm"
    if plain.startswith(("clinic", "klinis", "macro", "makro", "photo", "close")) or overview:
        return "overview" if overview else "clinical"
    return None


@lru_cache(maxsize=256)
def read_manipulation(text: str) -> str | None:
    """Return what was done to a picture, in lower case; None where it is as it was taken."""
    plain = folded(text)
    return None if plain in _AS_TAKEN else plain
