"""The doctor's look at the way to the coordinator: name, proxy, port, TLS, clock, the edge's door, the key."""

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from melfed.client.config.clinic import ClinicConfig
from melfed.client.flower.probe import INCOMPATIBLE, REGISTERED, UNKNOWN_KEY
from melfed.common.doctor.kit import VERSIONS_HEADER, expiry, same_versions
from melfed.common.doctor.steps import Finding, Step, bad, doubtful, good, skipped

SECONDS: Final = 5.0
"""Longest that one answer of the network is waited for."""

PROBE_SECONDS: Final = 30.0
"""For loading Flower and one call."""

BEHIND_WARNING, BEHIND_FAILED = 30.0, 240.0
"""Seconds; Flower refuses what was signed more than 305 s ago, its way to the server included."""

AHEAD_WARNING, AHEAD_FAILED = 2.5, 5.0
"""Seconds; Flower refuses what will be signed more than 5 s from now."""

DOOR: Final = "/v1/fleet/pull-messages"
ASK_COORDINATOR: Final = "ask the coordinator to approve this clinic's key and certificate (melfed-server approve)"
SET_CLOCK: Final = "let the system keep the clock: timedatectl set-ntp true"

_EXPIRED, _NOT_YET = 10, 9
_FOREIGN: Final = frozenset({2, 18, 19, 20, 21})
_OTHER_NAME: Final = frozenset({62, 64})
"""Codes of OpenSSL's X509_verify_cert."""


@dataclass(frozen=True)
class Answer:
    """What the edge said to one request, and the time here in the middle of it."""

    status: int
    headers: Mapping[str, str]
    asked: datetime


class NetworkDoctor:
    """Examines the way to one clinic's coordinator, with one connection at a time.

    Args:
        config: the clinic's.
        seconds: longest wait for one answer.
        program: what asks the coordinator for the key, in a process of its own.
    """

    def __init__(
        self,
        config: ClinicConfig,
        seconds: float = SECONDS,
        program: tuple[str, ...] = ("-m", "melfed.client.flower.probe"),
    ) -> None:
        self._config, self._seconds, self._program = config, seconds, program
        section = config.file.coordinator
        self.host, self.port = (section.host, section.port) if section else ("", 0)
        self._answer: Answer | None = None

    def steps(self) -> Iterator[Step]:
        """Yield the examinations, in order."""
        wait = 4 * self._seconds
        yield Step("proxy", self.proxy, wait)
        yield Step("DNS", self.dns, wait)
        yield Step("outbound port", self.outbound, wait, needs=("DNS",))
        yield Step("TLS", self.tls, wait, needs=("outbound port",))
        yield Step("clock", self.clock, wait, needs=("TLS",))
        yield Step("door", self.door, wait, needs=("TLS",))
        yield Step("key", self.key, PROBE_SECONDS + 5, needs=("door",))

    def proxy(self) -> Finding:
        """Tell which way Flower's client will take: it follows the environment of the messenger."""
        names = ("HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        stated = [name for name in names if os.environ.get(name) or os.environ.get(name.lower())]
        if not stated:
            return good("none: a direct connection")
        proxy = self._proxy()
        if proxy is None:
            return good(f"{', '.join(stated)} set, but not for {self.host}: a direct connection")
        if proxy.scheme != "http":
            return doubtful(
                f"{proxy.scheme}://{proxy.hostname}:{proxy.port} cannot be examined", "use a plain http:// proxy if so"
            )
        text = f"through {proxy.hostname}:{proxy.port}"
        return good(f"{text}; the messenger's own environment (its systemd unit) must say so as well")

    def dns(self) -> Finding:
        """Find the coordinator's addresses."""
        if not self.host:
            return bad("clinic.yaml names no coordinator", "add a section coordinator: with host: to clinic.yaml")
        if self._proxy() is not None:
            return good("left to the proxy")
        mend = f"correct coordinator.host in clinic.yaml, or let this machine's name server know {self.host}"
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            return bad(f"{self.host} is not found: {getattr(error, 'strerror', None) or 'no valid name'}", mend)
        addresses = sorted({str(entry[4][0]) for entry in found})
        return good(f"{self.host} is {', '.join(addresses[:3])}")

    def outbound(self) -> Finding:
        """Open a connection, through the proxy where there is one."""
        where = f"{self.host}, port {self.port}"
        mend = f"let this machine connect to {where} (firewall, proxy); nothing needs to come in"
        try:
            self.connect().close()
        except TimeoutError:
            return bad(f"{where}: no answer within {self._seconds:g} s", mend)
        except ConnectionRefusedError:
            return bad(f"{where}: refused", f"{mend}; if it may, ask the coordinator whether the server runs")
        except OSError as error:
            return bad(f"{where}: {_reason(error)}", mend)
        return good(f"{where} can be reached")

    def tls(self) -> Finding:
        """Check the server's certificate by the kit's CA, its name, and how long it is valid."""
        try:
            context = self._context()
        except OSError:
            return bad("ca.crt is missing, or no certificate", "put the kit's own ca.crt back")
        try:
            with context.wrap_socket(self.connect(), server_hostname=self.host) as connection:
                certificate = connection.getpeercert() or {}
                self._answer = self._ask(connection)
        except ssl.SSLCertVerificationError as error:
            return self._distrust(error)
        except TimeoutError:
            return bad(f"no TLS within {self._seconds:g} s", "ask the coordinator what listens on its port")
        except (OSError, ValueError) as error:
            return bad(
                f"no TLS: {_reason(error)}",
                "ask the coordinator what listens on its port; a firewall that opens TLS must let this host pass",
            )
        end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
        return expiry("the server's certificate", end, "remind the coordinator to renew it")

    def clock(self) -> Finding:
        """Compare the clock with the coordinator's, by what it says over TLS."""
        try:
            theirs = parsedate_to_datetime(self._answer.headers["date"]) if self._answer else None
        except (KeyError, ValueError):
            theirs = None
        if self._answer is None or theirs is None:
            return skipped("the coordinator told no time")
        if theirs.tzinfo is None:
            theirs = theirs.replace(tzinfo=UTC)
        # The header has whole seconds, of which half a second has passed on average.
        ahead = (self._answer.asked - theirs).total_seconds() - 0.5
        text = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
        if ahead > AHEAD_FAILED or -ahead > BEHIND_FAILED:
            return bad(f"{text}: Flower refuses {AHEAD_FAILED:g} s ahead, 300 s behind", SET_CLOCK)
        return doubtful(text, SET_CLOCK) if ahead > AHEAD_WARNING or -ahead > BEHIND_WARNING else good(text)

    def door(self) -> Finding:
        """Knock at the edge with the clinic's certificate and the name of its key."""
        try:
            context = self._context()
            # Without the password, OpenSSL would ask at a terminal for that of a key that has one.
            context.load_cert_chain(self._config.certificate, self._config.certificate_key, password="")
            headers = {"flwr-public-key": _public_key(self._config.node_key)}
        except PermissionError:
            raise  # another user's keys are no fault of theirs
        except (OSError, ValueError):
            return bad("the clinic's certificate or keys cannot be used", "see the checks secrets and certificate")
        try:
            with context.wrap_socket(self.connect(), server_hostname=self.host) as connection:
                answer = self._ask(connection, headers)
        except ssl.SSLError:
            return bad("the server refuses this clinic's certificate", ASK_COORDINATOR)
        except (OSError, ValueError) as error:
            return bad(f"no answer: {_reason(error)}", "try again, and ask the coordinator for its log if it stays")
        if answer is None:
            return bad("the server closes the connection", ASK_COORDINATOR)
        self._answer = answer
        return _at_the_door(answer)

    def key(self) -> Finding:
        """Ask SuperLink, in a process of its own, whether it knows the clinic's key."""
        config = self._config
        files = (config.ca_certificate, config.certificate, config.certificate_key, config.node_key)
        try:
            done = subprocess.run(  # noqa: S603 (our own program)
                [sys.executable, "-P", *self._program, self.host, str(self.port), *map(str, files)],
                capture_output=True,
                text=True,
                timeout=PROBE_SECONDS,
                check=False,
            )
            answer = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            return bad(f"no answer within {PROBE_SECONDS:g} s", "try again, and ask the coordinator if it stays")
        except ValueError:
            return bad("Flower cannot be loaded", "install melfed's package again")
        return _of_the_key(answer)

    def _proxy(self) -> SplitResult | None:
        """Return the proxy that the environment names for the coordinator; httpx goes by the same variables."""
        proxies = getproxies()
        proxy = proxies.get("https") or proxies.get("all")
        if not proxy or not self.host or proxy_bypass(f"{self.host}:{self.port}"):
            return None
        return urlsplit(proxy if "://" in proxy else f"http://{proxy}")

    def connect(self) -> socket.socket:
        """Return a connection to the coordinator's port, through the proxy where there is one. Raises OSError."""
        proxy = self._proxy()
        if proxy is None:
            return socket.create_connection((self.host, self.port), timeout=self._seconds)
        if proxy.scheme != "http" or not proxy.hostname:
            raise OSError(f"a {proxy.scheme} proxy cannot be examined")
        tunnel = http.client.HTTPConnection(proxy.hostname, proxy.port or 80, timeout=self._seconds)
        headers = {}
        if proxy.username:
            login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
            headers = {"Proxy-Authorization": f"Basic {base64.b64encode(login).decode()}"}
        tunnel.set_tunnel(self.host, self.port, headers)
        tunnel.connect()
        assert tunnel.sock is not None  # noqa: S101 (connect has made it)
        return tunnel.sock

    def _context(self) -> ssl.SSLContext:
        """Return what trusts the kit's CA alone, as the SuperNode does. Raises OSError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(str(self._config.ca_certificate))
        return context

    def _ask(self, connection: ssl.SSLSocket, headers: Mapping[str, str] | None = None) -> Answer | None:
        """Send an empty Fleet request over a connection; None where no answer of HTTP comes. Raises OSError."""
        client = http.client.HTTPConnection(self.host, self.port, timeout=self._seconds)
        client.sock = connection
        sent = datetime.now(UTC)
        try:
            client.request("POST", DOOR, b"", {"content-type": "application/protobuf", **(headers or {})})
            response = client.getresponse()
        except (http.client.HTTPException, ConnectionError):
            return None
        asked = sent + (datetime.now(UTC) - sent) / 2
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, asked)

    def _distrust(self, error: ssl.SSLCertVerificationError) -> Finding:
        if error.verify_code in _OTHER_NAME:
            mend = "name the coordinator in clinic.yaml as its certificate does, or ask it for one with this name"
            return bad(f"the server's certificate is not for {self.host}", mend)
        if error.verify_code == _EXPIRED:
            return bad("the server's certificate has expired", "tell the coordinator, once the date here is right")
        if error.verify_code == _NOT_YET:
            return bad("the server's certificate is not valid yet", SET_CLOCK)
        if error.verify_code in _FOREIGN:
            return bad(
                "the server's certificate is not from the kit's authority (ca.crt)",
                "connect to nothing until the coordinator confirms its CA; a firewall that opens TLS must let it pass",
            )
        return bad(f"the server's certificate is refused: {error.verify_message}", "ask the coordinator for another")


def _at_the_door(answer: Answer) -> Finding:
    """Judge what the edge answers to a request of this clinic that lacks a signature: 401 is SuperLink's own."""
    status = answer.status
    if status == 400:
        return bad("the edge does not take this clinic's certificate (400)", ASK_COORDINATOR)
    if status == 403:
        return bad("the edge knows no clinic of this certificate and key: not approved, or revoked", ASK_COORDINATOR)
    if status in (404, 405):
        return bad(f"what answers is no melfed server ({status})", "correct coordinator.host and port in clinic.yaml")
    if status in (429, 503):
        return doubtful(f"too many requests from here ({status})", "try again in a minute, with one clinic running")
    if status >= 500:
        return bad(f"the edge answers, its SuperLink does not ({status})", "tell the coordinator: melfed-server doctor")
    return same_versions(answer.headers.get(VERSIONS_HEADER.lower()))


def _of_the_key(answer: Mapping[str, object]) -> Finding:
    """Judge the probe's answer; see `melfed.client.flower.probe`."""
    code, status, detail = answer.get("code"), answer.get("status"), answer.get("detail")
    by_code = {
        REGISTERED: good("registered"),
        UNKNOWN_KEY: bad("the coordinator does not know this clinic's key", ASK_COORDINATOR),
        INCOMPATIBLE: bad(f"another version of Flower: {detail}", "install the version that the coordinator runs"),
    }
    if isinstance(code, int) and code in by_code:
        return by_code[code]
    if status == 401:
        return bad("the coordinator refuses this clinic's signature", f"see the check clock; {ASK_COORDINATOR}")
    if isinstance(status, int) and (status == 429 or status >= 500):
        return doubtful(f"SuperLink does not answer now ({status})", "try again; tell the coordinator if it stays")
    if "error" in answer:
        return bad(f"could not be asked: {answer['error']}", "see the checks above, and try again")
    return bad(f"the coordinator answers with {status}, code {code}", "compare melfed's versions at both sides")


def _public_key(path: Path) -> str:
    """Return the node key's public half as Flower's header has it. Raises OSError, ValueError."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

    key = load_ssh_private_key(path.read_bytes(), None).public_key()
    return base64.b64encode(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).decode("ascii")


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(reason).split())[:120]
