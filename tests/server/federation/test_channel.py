"""What rounds need of a channel: text from outside is one line."""

import pytest

from melfed.server.flower.channel import one_line


@pytest.mark.parametrize(
    ("text", "line"),
    [("plain", "plain"), ("two\nlines\r\n\tand  more ", "two lines and more"), ("\x1b[31mred\x07", "?[31mred?"),
     ("", ""), ("x" * 1000, "x" * 300)],
)  # fmt: skip
def test_text_from_outside_becomes_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
