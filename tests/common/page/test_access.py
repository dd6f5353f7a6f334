"""Who is shown a page."""

import hmac
import logging
import stat
from pathlib import Path

import pytest

from melfed.common.errors import StorageError
from melfed.common.page.access import HEADERS, page_token
from tests.common.page.made import Words
from tests.live_page import ask, served

TOKEN = "t" * 43
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.token"
    made = page_token(path)
    assert len(made) == 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert page_token(path) == made
    assert page_token(tmp_path / "other") != made


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [(b"t" * 43, 0o640, "others may read"), (b"short", 0o600, "holds no token"), (b"\xff" * 40, 0o600, "cannot be")],
)
def test_a_token_that_protects_nothing_is_refused(tmp_path: Path, content: bytes, mode: int, why: str) -> None:
    path = tmp_path / "page.token"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(StorageError, match=why):
        page_token(path)


def test_a_page_on_loopback_answers_no_other_name() -> None:
    with served(Words({"a": 1})) as url:
        for host in ("evil.example", "127.0.0.1.evil.example:80", ""):
            status, headers, text = ask(url, "/", Host=host)
            assert (status, "127.0.0.1" in text) == (421, True)
        for host in ("localhost", "127.0.0.1:1", "[::1]:80"):
            assert ask(url, "/", Host=host)[0] == 200
        assert headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()


def test_without_the_token_nothing_is_shown(caplog: pytest.LogCaptureFixture, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    with served(Words({"secret": 1}), TOKEN) as url:
        assert (ask(url, "/")[0], ask(url, "/")[1]["location"]) == (303, "/enter")
        assert "token" in ask(url, "/enter")[2]
        assert ask(url, "/static/page.css")[0] == 200
        for headers in (
            {},
            {"Cookie": "x"},
            {"Cookie": f"{_name(url)}={TOKEN}"},
            {"Cookie": 'a[]=";=;'},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": f"Bearer {TOKEN[1:]}"},
            {"Authorization": "Bearer ä"},
        ):
            assert ask(url, "/events", **headers)[::2] == (401, "enter the token first\n")
        for body in ("", "token=", f"token={TOKEN[1:]}", f"other={TOKEN}", f"x={'y' * 2000}&token={TOKEN}"):
            status, headers, _ = ask(url, "/enter", "POST", body, **FORM)
            assert (status, headers["location"], "set-cookie" in headers) == (303, "/enter#wrong", False)
    assert TOKEN not in caplog.text + "".join(capfd.readouterr())


def test_with_the_token_it_is_shown_and_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    same = hmac.compare_digest

    def compare(said: bytes, right: bytes) -> bool:
        compared.append(right)
        return same(said, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with served(Words({"secret": 1}), TOKEN) as url:
        status, headers, _ = ask(url, "/enter", "POST", f"token={TOKEN}", **FORM)
        cookie, *rules = headers["set-cookie"].split("; ")
        assert (status, headers["location"]) == (303, "/")
        assert {"HttpOnly", "SameSite=strict"} <= set(rules)
        assert TOKEN not in cookie
        assert compared == [TOKEN.encode()]
        for known in ({"Cookie": cookie}, {"Authorization": f"bearer {TOKEN}"}):
            assert ask(url, "/", **known)[0] == 200
            assert ask(url, "/events", **known)[2] == "event: part\n"
    with served(Words({}), TOKEN) as other:
        assert ask(other, "/events", Cookie=cookie)[0] == 401


def _name(url: str) -> str:
    return f"melfed-page-{url.rpartition(':')[2].strip('/')}"
