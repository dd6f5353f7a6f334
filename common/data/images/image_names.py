"""Names of images: one form for each, with and without folders and suffixes; of hundreds of thousands at once."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom"})
PICTURE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".heic", ".heif"}
)
IMAGE_SUFFIXES: Final = PICTURE_SUFFIXES | DICOM_SUFFIXES
"""Suffixes of files that are taken for images; what they hold is told from their content."""
COMMON: Final = (".jpg", ".jpeg", ".png")
"""The suffixes of most images, as they are mostly written."""

_DOWNSAMPLED: Final = "_downsampled"


def without_suffix(image: str) -> str:
    """The image id without the `_downsampled` that 2,074 ids of ISIC 2019 carry."""
    return image.removesuffix(_DOWNSAMPLED)


def without_suffixes(images: Sequence[str]) -> Sequence[str]:
    """Return many ids as `without_suffix` returns one."""
    if _DOWNSAMPLED in one_text(images):
        return [image.removesuffix(_DOWNSAMPLED) for image in images]
    return images


class Names:
    """The images of each name: nearly always one, for which no list is made."""

    def __init__(self, names: Iterable[str], images: Sequence[str]) -> None:
        names = list(names)
        self._one = dict(zip(names, images, strict=True))
        self._more: dict[str, list[str]] = defaultdict(list)
        if len(self._one) < len(images):
            several = {name for name, count in Counter(names).items() if count > 1}
            for name, image in zip(names, images, strict=True):
                if name in several:
                    self._more[name].append(image)

    @property
    def alone(self) -> Mapping[str, str]:
        """The image of each name where each has one; else nothing."""
        return {} if self._more else self._one

    def get(self, name: str) -> Sequence[str]:
        """The images of a name, in the order in which they were noted."""
        image = self._one.get(name)
        if image is None:
            return ()
        return self._more.get(name) or (image,)


def composed(name: str) -> str:
    """The name with accents composed, as every system but macOS writes it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def stem_of(path: str) -> str:
    """The image id in a path: without folders, the suffix of an image, and `_downsampled`."""
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return without_suffix(stem if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else name)


def stems_of(paths: Sequence[str]) -> Sequence[str]:
    """The same of many paths: a call for each takes a while."""
    text, suffix = one_text(paths), COMMON[0]
    if text.count(f"{suffix}\0") < len(paths):
        return [stem_of(path) for path in paths]
    stems = text.replace(f"{suffix}\0", "\0").split("\0")[:-1]
    if "/" in text:
        stems = [stem.rpartition("/")[2] for stem in stems]
    return without_suffixes(stems)


def one_text(names: Sequence[str]) -> str:
    """Names of files with a sign behind each that none of them can hold: searched faster than one by one."""
    return "\0".join([*names, ""])


def folder_of(image: str) -> str:
    """The folder in the path of an image, composed."""
    return composed(image).rpartition("/")[0]
