"""The commands that the documentation tells people to give."""

import re

from tests.conftest import REPOSITORY


def commands(page: str, heading: str = "") -> list[list[str]]:
    """Return the lines of each shell block of a page, those below a heading alone.

    Args:
        page: from the repository's root.
        heading: how a heading begins, `##` and all; the blocks are those up to the next one of its level. "": all.
    """
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    if heading:
        level = heading.partition(" ")[0]
        text = text[re.search(rf"^{re.escape(heading)}.*\n", text, re.M).end() :]  # type: ignore[union-attr]
        text = re.split(rf"^#{{1,{len(level)}}} ", text, maxsplit=1, flags=re.M)[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks, f"{page}: no commands below {heading!r}"
    return [block.splitlines() for block in blocks]
