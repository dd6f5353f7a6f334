from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.server.report.markup import Markup, element, join, number

# What HTML itself cannot carry: NUL and surrogates; and CR, which parsers turn into LF.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)


class Reader(HTMLParser):
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


@settings(deadline=None, max_examples=200)
@given(TEXT, TEXT)
def test_any_text_stays_text(content: str, value: str) -> None:
    read = Reader(element("p", content, aria_label=value))
    assert read.words == content
    assert read.tags == [("p", {"aria-label": value})]


def test_markup_is_kept_and_text_is_escaped() -> None:
    assert element("p", element("b", "<i>"), "&") == "<p><b>&lt;i&gt;</b>&amp;</p>"
    assert join([Markup("<br>"), "<br>"]) == "<br>&lt;br&gt;"


def test_attributes() -> None:
    assert element("meta", name="x", content=None) == '<meta name="x">'
    assert element("rect", class_="bar", x=1.0, y=2.349) == '<rect class="bar" x="1" y="2.35"></rect>'


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0, 1.5, -0.25, 1 / 3, 100)] == ["0", "1.5", "-0.25", "0.33", "100"]
