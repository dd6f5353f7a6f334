"""The vocabulary's page is made of the code."""

from melfed.common.data.vocabulary import page
from tests.conftest import REPOSITORY


def test_the_page_is_that_of_the_code() -> None:
    written = (REPOSITORY / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    assert written == page.render(), "run: python -m melfed.common.data.vocabulary.page docs/vocabulary.md"
