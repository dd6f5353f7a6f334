"""Serving a live page to tests, and reading its stream."""

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from melfed.common.page.access import Access
from melfed.common.page.app import Page, changes, page_app
from melfed.common.page.serve import Listening, PageServer
from tests.server.coordinator import free_ports


@contextmanager
def served(page: Page, token: str | None = None, at: Listening | None = None) -> Iterator[str]:
    """Serve a page, and give its address."""
    at = at or Listening("127.0.0.1", free_ports(1)[0])
    listens = threading.Event()
    access = Access(token, loopback=True, port=at.port)
    server = PageServer(page_app(page, access, pause=0.05), at, listens.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listens.wait(20)
        yield at.url
    finally:
        server.should_exit = True
        thread.join(20)


class Looks:
    """Somebody who looks so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def is_disconnected(self) -> bool:
        self.left -= 1
        return self.left < 0


def streamed(page: Page, looks: int = 1, chosen: str = "") -> list[tuple[str, Any]]:
    """Name and content of each part that so many looks send, in their order."""

    async def read() -> list[tuple[str, Any]]:
        events = [event async for event in changes(page, chosen, Looks(looks), pause=0)]
        lines = [event.splitlines() for event in events]
        return [tuple(json.loads(data[6:])) for kind, data, *_ in lines if kind == "event: part"]

    return asyncio.run(read())


def ask(url: str, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, Mapping[str, str], str]:
    """Status, headers and text of one answer; of a stream, its first line."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port or 0, timeout=20)
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        stream = answer.headers.get_content_type() == "text/event-stream"
        return answer.status, dict(answer.headers.items()), (answer.readline() if stream else answer.read()).decode()
    finally:
        connection.close()
