"""A clinic's page in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from melfed.client.page.view import ClinicPage
from melfed.client.privacy import accounting
from tests.browser import CONTRASTS, show, started, until
from tests.client.ledger.ledgers import cheap_epsilon
from tests.client.page.made import HOSTILE, busy_clinic
from tests.live_page import served

KINDS = ("h1", ".notice", "nav a", ".card .big", "th", "code", ".warn", ".state", "time", "caption")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounting, "epsilon", cheap_epsilon)
        with served(ClinicPage(busy_clinic(Path(tmp_path_factory.mktemp("clinic"))))) as url:
            yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as chrome:
        yield chrome


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_of_it_is_shown_as_text(browser: Any, address: str, width: int, scheme: str) -> None:
    show(browser, address, width, scheme)
    until(browser, "return document.querySelector('#status .card') && document.querySelector('#studies td')")
    assert browser.get_log("browser") == []
    assert browser.title == "north: melfed clinic"
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    for part in ("asked", "ledger", "models", "events"):
        assert HOSTILE in browser.execute_script(f"return document.getElementById('{part}').textContent"), part
    assert "forged" not in browser.execute_script("return document.getElementById('asked').textContent")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    contrasts = dict(browser.execute_script(CONTRASTS, KINDS))
    assert len(contrasts) >= 9
    assert all(contrast >= 4.5 for contrast in contrasts.values()), contrasts
