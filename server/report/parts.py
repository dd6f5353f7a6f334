"""Pieces that several sections of the report are made of: facts, tables, notices."""

from collections.abc import Sequence

from melfed.server.report.markup import Markup, element, join


def facts(pairs: Sequence[tuple[str, str]]) -> Markup:
    """Return names and what they are, as a definition list."""
    return element("dl", *[join([element("dt", name), element("dd", text)]) for name, text in pairs], class_="facts")


def panel(*content: Markup, below: bool = False) -> Markup:
    """Return a box; `below` keeps its distance from what stands above."""
    return element("div", *content, class_="panel below" if below else "panel")


def notice(words: str, *, warning: bool = False) -> Markup:
    """Return a sentence in a box of its own, which a screen reader announces as a note."""
    return element("p", words, class_="notice warning" if warning else "notice", role="note")


def table(caption: str, head: Markup, rows: Sequence[Markup], style: str | None = None) -> Markup:
    """Return a table that scrolls sideways in its own box where the screen is narrow."""
    inner = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", head),
        element("tbody", *rows),
        class_=style,
    )
    return element("div", inner, class_="scroll", role="region", aria_label=caption, tabindex=0)


def word_table(caption: str, names: Sequence[str], rows: Sequence[tuple[Markup | str, ...]]) -> Markup:
    """Return a table of words, whose rows become blocks where the screen is narrow; the first cell heads its row."""
    body = [
        element("tr", element("th", first, scope="row"), *[element("td", cell, class_="words") for cell in rest])
        for first, *rest in rows
    ]
    return table(caption, columns(*names, words=names), body, "words")


def columns(*names: str, words: Sequence[str] = ()) -> Markup:
    """Return the row of a table's headings; those in `words` stand over text and not over numbers."""
    return element(
        "tr", *[element("th", name, scope="col", class_="words" if name in words else None) for name in names]
    )
