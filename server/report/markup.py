"""HTML and SVG by construction: whatever is not `Markup` is text, and text is always escaped.

No page is put together from strings elsewhere, so no clinic name, file name or error text can become a tag.
"""

from collections.abc import Iterable
from html import escape

VOID = frozenset({"br", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, /, *content: str, **attributes: str | float | None) -> Markup:
    """Return one element.

    Args:
        tag: its name.
        content: children; `Markup` as it is, any other text escaped.
        attributes: `class_` is written `class`, `aria_label` as `aria-label`; None is left out, a number is
            written with at most two decimals.
    """
    pairs = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    opening = "".join(f' {key}="{escape(_text(value))}"' for key, value in pairs)
    if tag in VOID:
        return Markup(f"<{tag}{opening}>")
    return Markup(f"<{tag}{opening}>{join(content)}</{tag}>")


def join(parts: Iterable[str]) -> Markup:
    """Return parts one after the other; those that are not `Markup` are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def number(value: float) -> str:
    """Return a coordinate, short: at most two decimals, no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else number(value)
