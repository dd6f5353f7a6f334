"""Where a page is served."""

import socket
import ssl
import urllib.request
from pathlib import Path

import pytest

from melfed.common.errors import ServiceError
from melfed.common.page.access import Access
from melfed.common.page.app import page_app
from melfed.common.page.serve import Listening, PageServer, is_loopback
from tests.common.page.made import Words
from tests.live_page import served
from tests.server.coordinator import free_ports, make_kits


def test_addresses_of_this_machine_alone_are_told_from_others() -> None:
    assert [is_loopback(one) for one in ("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "10.0.0.1", "::")] == [
        *(True, True, True, False, False, False)
    ]
    with pytest.raises(ServiceError, match=r"localhost: no IP address; name one of this machine"):
        is_loopback("localhost")


def test_a_browser_opens_its_address() -> None:
    assert Listening("127.0.0.1", 80).url == "http://127.0.0.1:80/"
    assert Listening("::1", 81, Path("a"), Path("b")).url == "https://[::1]:81/"


def server(at: Listening) -> PageServer:
    return PageServer(page_app(Words({}), Access(None, True, at.port)), at)


def test_a_port_that_is_taken_is_said_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        at = Listening("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:\d+/: taken by another program"):
            server(at).serve_until_told()
    assert "".join(capfd.readouterr()) == ""


def test_a_certificate_that_is_none_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nonsense")
    with pytest.raises(ServiceError, match="cannot be used for TLS"):
        server(Listening("127.0.0.1", free_ports(1)[0], tmp_path / "x", tmp_path / "x")).serve_until_told()


def test_with_a_certificate_it_speaks_tls(tmp_path: Path) -> None:
    config = make_kits(tmp_path / "kits", "a")
    at = Listening("127.0.0.1", free_ports(1)[0], config.certificate, config.certificate_key)
    trusting = ssl.create_default_context(cafile=config.ca_certificate)
    with served(Words({}), at=at) as url, urllib.request.urlopen(url, context=trusting, timeout=20) as answer:
        assert b"melfed" in answer.read()
