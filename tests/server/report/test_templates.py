from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from melfed.server.report.page import templates
from tests.server.report.reading import Reader

# What HTML itself cannot carry: NUL and surrogates; and CR, which parsers turn into LF.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


def piece(call: str, **values: Any) -> str:
    """What a piece of `pieces.html` makes of values."""
    return templates().from_string('{% import "pieces.html" as pieces %}' + call).render(**values)


@settings(deadline=None, max_examples=100)
@given(TEXT, TEXT)
def test_any_text_stays_text(content: str, value: str) -> None:
    read = Reader(piece("{% call pieces.table(value) %}{{ content }}{% endcall %}", content=content, value=value))
    assert read.words.replace("\n", "") == (value + content).replace("\n", "")
    assert [tag for tag, _ in read.tags] == ["div", "table", "caption", "span"]
    assert read.tags[0][1]["aria-label"] == value


def test_text_of_python_is_escaped_in_every_piece() -> None:
    assert "&lt;i&gt;" in piece("{{ pieces.facts([(text, text)]) }}", text="<i>")
    assert "<i>" not in piece("{{ pieces.facts([(text, text)]) }}{{ pieces.notice(text) }}", text="<i>")
    assert "<i>" not in piece("{{ pieces.word_table(text, (text,) * 3, [(text,) * 3]) }}", text="<i>")


def test_a_name_that_no_one_gave_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        piece("{{ pieces.notice(nobody) }}")
