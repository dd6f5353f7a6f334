"""A live page's answers: its files, and a stream of what has changed (server-sent events). It has no action."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from typing import Any, Protocol

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from melfed.common.errors import MelfedError
from melfed.common.page.access import Access, Guarded

PAUSE = 1.0  # seconds between two looks at files that other processes write
LONGEST_NAME = 200  # of a run, in an address
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

Sections = Mapping[str, Any]
"""What a page shows, by the name of each part: JSON."""


class Page(Protocol):
    """Something that is looked at."""

    package: str
    """Whose `static` folder has `index.html` and its script."""

    def look(self, chosen: str) -> Sections:
        """Return all parts as they are now; called in a thread. Raises MelfedError.

        A part `reading` that is true asks for the next look at once: there is more to read.

        Args:
            chosen: what the address names (`?run=`); empty: nothing.
        """


def page_app(page: Page, access: Access, pause: float = PAUSE) -> ASGIApp:
    """Return the app of a page."""
    app = FastAPI(title="melfed", docs_url=None, redoc_url=None, openapi_url=None)
    static = _static("melfed.common.page") | _static(page.package)

    @app.get("/")
    def index() -> Response:
        return _file("index.html", static)

    @app.get("/enter")
    def form() -> Response:
        return _file("enter.html", static)

    @app.post("/enter")
    async def enter(request: Request) -> Response:
        return await access.enter(request)

    @app.get("/static/{name}")
    def content(name: str) -> Response:
        return _file(name, static)

    @app.get("/events")
    def events(request: Request, run: str = "") -> Response:
        return StreamingResponse(changes(page, run[:LONGEST_NAME], request, pause), media_type="text/event-stream")

    return Guarded(app, access)


class Asking(Protocol):
    """Who is told: a request."""

    async def is_disconnected(self) -> bool:
        """Whether nobody listens any more."""


async def changes(page: Page, chosen: str, asking: Asking, pause: float = PAUSE) -> AsyncIterator[str]:
    """Yield each part of a page when it is new or has changed, as server-sent events, until nobody listens."""
    sent: dict[str, str] = {}
    while not await asking.is_disconnected():
        try:
            found: Sections = {"error": "", **await run_in_threadpool(page.look, chosen)}
        except (MelfedError, OSError) as error:
            found = {"error": str(error)}
            lost: set[str] = set()  # what was shown stays, below the error
        else:
            lost = sent.keys() - found.keys()
        texts = {name: json.dumps(content, allow_nan=False) for name, content in found.items()}
        texts |= dict.fromkeys(sorted(lost), "null")
        news = {name: text for name, text in texts.items() if sent.get(name) != text}
        for name, text in news.items():
            yield f"event: part\ndata: [{json.dumps(name)},{text}]\n\n"
        sent |= news
        yield "event: looked\ndata: {}\n\n"  # all are there; and a connection that broke is noticed
        for name in lost:
            del sent[name]
        await asyncio.sleep(0 if found.get("reading") else pause)


def _static(package: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in files(package).joinpath("static").iterdir()}


def _file(name: str, static: Mapping[str, bytes]) -> Response:
    content = static.get(name)
    if content is None:
        return PlainTextResponse("there is no such page\n", 404)
    return Response(content, media_type=TYPES[name.rpartition(".")[2]])
