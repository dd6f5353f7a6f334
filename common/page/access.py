"""Who may see a live page, and what its answers forbid a browser.

On loopback a request must name a loopback host, so that no other site's script can read the page under a name of its
own. Where a token is asked for, it is entered once, in a form; a cookie of a random session stands for it from then on.
The token is in no argument, address, answer or log: in a file that its owner alone can read.
"""

import hmac
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from melfed.common.errors import StorageError
from melfed.common.files import write_text

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
LONGEST_FORM = 1024  # bytes
OPEN = ("/enter", "/static/")
"""What is answered without a token: the form, and files that are the same everywhere."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def page_token(path: Path) -> str:
    """Return the token in a file, which is made (0600) where there is none.

    Raises:
        StorageError: it cannot be read or made, or others may read it.
    """
    try:
        found, mode = path.read_text(encoding="ascii").strip(), path.stat().st_mode
    except FileNotFoundError:
        made = secrets.token_urlsafe(32)
        write_text(path, f"{made}\n")
        return made
    except (OSError, UnicodeDecodeError):
        raise StorageError(f"{path}: cannot be read; remove it, and the next start makes another token") from None
    if mode & 0o077:
        raise StorageError(f"{path}: others may read this token; remove it, and the next start makes another one")
    if len(found) < 32:
        raise StorageError(f"{path}: holds no token; remove it, and the next start makes another one")
    return found


@dataclass(frozen=True)
class Access:
    """Whom a page is shown.

    Attributes:
        token: what has to be known; None: nothing.
        loopback: whether requests must name a loopback host.
        port: of the page; cookies of several ports of a host are one heap.
    """

    token: str | None
    loopback: bool
    port: int
    _session: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        return f"melfed-page-{self.port}"

    def named_rightly(self, headers: Headers) -> bool:
        """Whether the request was meant for this page."""
        host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
        return not self.loopback or host in LOOPBACK

    def let_in(self, headers: Headers) -> bool:
        """Whether the request knows the token, or needs none."""
        if self.token is None:
            return True
        kind, _, said = headers.get("authorization", "").partition(" ")
        return _same(self._of_cookie(headers), self._session) or (kind.lower() == "bearer" and _same(said, self.token))

    def _of_cookie(self, headers: Headers) -> str:
        try:
            found = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return ""
        return found.value if found else ""

    async def enter(self, request: Request) -> Response:
        """Answer the form: with a cookie, where it has the token."""
        said = parse_qs((await _body(request)).decode("latin-1")).get("token", [""])[0].strip()
        if self.token is not None and not _same(said, self.token):
            return RedirectResponse("/enter#wrong", 303)
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(self.cookie, self._session, httponly=True, samesite="strict", secure=secure)
        return answer


def _same(said: str, right: str) -> bool:
    """Compare in a time that does not depend on where they differ."""
    return hmac.compare_digest(said.encode(), right.encode())


async def _body(request: Request) -> bytes:
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > LONGEST_FORM:
            return b""
    return content


class Guarded:
    """An ASGI app behind an `Access`; adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        """Guard an app."""
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; anything but HTTP is closed."""
        if scope["type"] != "http":
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        refused = self._refused(headers, scope["path"])
        await (self._app if refused is None else refused)(scope, receive, sent)

    def _refused(self, headers: Headers, path: str) -> Response | None:
        if not self._access.named_rightly(headers):
            return PlainTextResponse("this page is on loopback: open it by http://127.0.0.1\n", 421)
        if path.startswith(OPEN) or self._access.let_in(headers):
            return None
        return RedirectResponse("/enter", 303) if path == "/" else PlainTextResponse("enter the token first\n", 401)
