"""Symbolic links in a data folder: whether what they lead to outside of it is taken.

By default it is not: a link is an easy way to have a program read, and list, what its user did not mean. `own` takes
what lies on the data folder's own file system, `any` all that can be read; a link to a folder that holds the data
folder itself is refused by both.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from melfed.common.errors import DataError

Links = Literal["inside", "own", "any"]


class LinkRule:
    """What becomes of links in one data folder."""

    def __init__(self, root: str | Path, links: Links) -> None:
        self.root, self.links = os.path.realpath(root), links
        self._device = device_of(self.root) if links == "own" else 0
        self._entered: set[tuple[int, int]] = set()

    def refusal(self, path: str | Path) -> str:
        """Return why what a path leads to is not taken, and what to do; nothing where it is.

        Raises:
            OSError: it leads nowhere.
        """
        real = os.path.realpath(path, strict=True)
        if f"{real}/".startswith(f"{self.root.rstrip('/')}/"):
            return ""
        if self.links == "inside":
            return "is a link out of the data folder; copy the images into it, or follow links with --links own"
        if f"{self.root}/".startswith(f"{real.rstrip('/')}/"):
            return "is a link to a folder that holds the data folder itself; remove it"
        if self.links == "own" and device_of(real) != self._device:
            return "is a link to another file system; follow it with --links any, if it is meant"
        return ""

    def first_time(self, folder: str) -> bool:
        """Tell whether a folder is met for the first time, under whatever path: links can form circles."""
        found = Path(folder).stat()
        key = (found.st_dev, found.st_ino)
        new = key not in self._entered
        self._entered.add(key)
        return new

    def enter(self, linked: Iterable[str]) -> list[str]:
        """Return the linked folders that are to be entered. Raises DataError for one that is refused."""
        if self.links == "inside":
            return []
        wanted = list(linked)
        for path in wanted:
            if reason := self.refusal(path):
                raise DataError(f"{path}: {reason}")
        return wanted


def device_of(path: str) -> int:
    """Return the number of the file system that a path lies on."""
    return Path(path).stat().st_dev
