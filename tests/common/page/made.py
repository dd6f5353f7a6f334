"""A page of a few words, for the tests of what serves it."""

from typing import Any


class Words:
    """A page whose parts a test sets; an error in their place is raised."""

    package = "melfed.server.page"

    def __init__(self, *looks: dict[str, Any] | Exception) -> None:
        self.looks = list(looks)
        self.chosen: list[str] = []

    def look(self, chosen: str) -> dict[str, Any]:
        self.chosen.append(chosen)
        found = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        if isinstance(found, Exception):
            raise found
        return found
