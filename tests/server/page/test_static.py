"""The coordinator's page in a real browser: what comes from elsewhere is text, and stays on a phone's screen."""

from collections.abc import Iterator
from typing import Any

import pytest

from melfed.server.config import ServerConfig
from melfed.server.page.view import ServerPage
from tests.browser import CONTRASTS, show, started, until
from tests.live_page import served
from tests.server.page.made import HOSTILE, add_round, with_run

KINDS = ("h1", ".notice", "nav a", ".card .big", ".card .small", "th", "td small", "figcaption", ".empty", ".state")
LOOKED = "return Number(document.documentElement.dataset.looked) > 1"
FOREIGN = (
    """return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith(location.origin))"""
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def address(config: ServerConfig) -> Iterator[str]:
    with_run(config, rounds=3)
    with served(ServerPage(config)) as url:
        yield url


def opened(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> None:
    show(browser, address, width, scheme)
    until(browser, LOOKED)


def test_hostile_words_are_shown_as_they_are(browser: Any, address: str) -> None:
    opened(browser, address)
    assert browser.get_log("browser") == []
    assert browser.title == "test: melfed coordinator"
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert browser.execute_script(FOREIGN) == []
    text = browser.execute_script("return document.body.innerText")
    for section in ("clinics", "rounds"):
        assert HOSTILE in browser.execute_script(f"return document.getElementById('{section}').textContent")
    for words in ("last seen", "North-Clinic.1", "revoked", "1.25", "2.5", "30 of 1000", "round 4: 1 of 3"):
        assert words.replace("30", "3") in text


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_has_contrast(browser: Any, address: str, width: int, scheme: str) -> None:
    opened(browser, address, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    contrasts = dict(browser.execute_script(CONTRASTS, KINDS))
    assert len(contrasts) >= 8
    assert all(contrast >= 4.5 for contrast in contrasts.values()), contrasts
    overflowing = (
        "return [...document.querySelectorAll('td, .card')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    assert browser.execute_script(overflowing) == 0


def test_a_round_appears_when_it_is_over(browser: Any, address: str, config: ServerConfig) -> None:
    from melfed.server.runs.folder import RunFolder

    opened(browser, address)
    add_round(RunFolder(config.runs / "r"), 4)
    first = "return document.querySelector('#rounds tbody th').textContent"
    until(browser, f"{first.replace('return ', 'return (')}) === '4'")
    assert browser.execute_script("return document.querySelectorAll('#rounds tbody tr').length") == 4
    assert browser.execute_script("return document.querySelectorAll('#chart polyline').length") == 2


def test_the_keyboard_reaches_all_of_it(browser: Any, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, address)
    reached = []
    for _ in range(11):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = (
            "return document.activeElement.getAttribute('href') || document.activeElement.getAttribute('aria-label')"
        )
        reached.append(browser.execute_script(focused))
        outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", reached
        if len(reached) == 1:
            assert reached == ["#clinics-title"]
    assert {"#events-title", "3 clinics, 1 online", "Rounds", "?run=r"} <= set(reached)


def test_what_was_shown_stays_when_the_command_ends(browser: Any, config: ServerConfig) -> None:
    with served(ServerPage(config)) as url:
        opened(browser, url)
        assert browser.execute_script("return document.getElementById('lost').hidden")
    until(browser, "return !document.getElementById('lost').hidden")
    assert browser.execute_script("return document.querySelectorAll('#clinics tbody tr').length") == 3
    browser.get_log("browser")


def test_the_token_is_entered_once(browser: Any, config: ServerConfig) -> None:
    token = "t" * 43
    with served(ServerPage(config), token) as url:
        for said, heading in (("wrong", "This page asks for its token"), (token, "test")):
            show(browser, url, 390)
            browser.switch_to.active_element.send_keys(said + "\n")
            until(browser, f"return document.querySelector('h1').textContent === '{heading}'")
            if said == "wrong":
                until(browser, "return document.getElementById('wrong').checkVisibility()")
                assert [row for row in browser.get_log("browser") if row["level"] != "INFO"] == []
        assert token not in browser.current_url
        assert not browser.execute_script("return document.cookie")
