"""Serving a live page, over TLS where the address is no loopback one."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from melfed.common.errors import ServiceError

MOST_CONNECTIONS = 100
END_SECONDS = 1
"""Streams have no end: whoever stops the page waits no longer for them."""


@dataclass(frozen=True)
class Listening:
    """Where a page is.

    Attributes:
        address: an IP address.
        port: the port.
        certificate: of TLS; None: plain HTTP.
        key: of the certificate.
    """

    address: str
    port: int
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        """What a browser opens."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http{'s' if self.certificate else ''}://{host}:{self.port}/"


def is_loopback(address: str) -> bool:
    """Tell whether only this machine reaches an address. Raises ServiceError where it is none."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        raise ServiceError(f"{address}: no IP address; name one of this machine, such as 127.0.0.1") from None


class PageServer(uvicorn.Server):
    """A server of one page; `should_exit` ends it."""

    def __init__(self, app: ASGIApp, at: Listening, told: Callable[[], None] = lambda: None) -> None:
        """Nothing listens yet; `told` is called once it does."""
        tls: dict[str, Any] = {"ssl_certfile": at.certificate, "ssl_keyfile": at.key} if at.certificate else {}
        super().__init__(
            uvicorn.Config(
                app,
                host=at.address,
                port=at.port,
                log_config=None,
                log_level="critical",
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                limit_concurrency=MOST_CONNECTIONS,
                timeout_graceful_shutdown=END_SECONDS,
                **tls,
            )
        )
        self._at, self._told = at, told

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        self._told()

    def serve_until_told(self) -> None:
        """Answer until Ctrl-C or SIGTERM. Raises ServiceError where the port or the certificate cannot be used."""
        try:
            self.run()
        except KeyboardInterrupt:
            return
        except SystemExit:  # how uvicorn says that it cannot listen
            raise ServiceError(f"{self._at.url}: taken by another program, or no address of this machine") from None
        except OSError as error:
            raise ServiceError(f"{self._at.certificate}: cannot be used for TLS: {error.strerror}") from None
