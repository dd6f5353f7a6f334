"""How tests read a page."""

import re
from html.parser import HTMLParser

import numpy as np
from numpy.typing import NDArray


class Reader(HTMLParser):
    """Tags and words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def path_of(svg: str) -> NDArray[np.float64]:
    """Pixels of the first curve in an SVG, shape (points, 2)."""
    found = re.search(r'class="curve"><path d="([^"]*)"', svg)
    assert found
    return np.array(re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", found[1]), float)
