"""The text of nginx's configuration (nginx 1.22 or later)."""

import grp
import os
import pwd
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from melfed.common.doctor.kit import VERSIONS_HEADER, versions_header
from melfed.common.errors import ServerConfigError
from melfed.server.clinics.certificates import key_header
from melfed.server.clinics.registry import ClinicRecord
from melfed.server.config import BODY_HEADER, OBJECTS, PUSH, ServerConfig
from melfed.server.flower.key_holders import ADDRESS_HEADER, KEY_HEADER

FLEET = (
    "register-node",
    "activate-node",
    "deactivate-node",
    "unregister-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""What a SuperNode asks for, below /v1/fleet/ (`flwr.supernode.fleet_http_client`, Flower 1.41)."""

_POLLS = ("pull-messages", "send-node-heartbeat")
_PATH = 200
"""Characters of a path that are logged."""

_SPECIAL = re.compile(r"""["'\\$;{}\x00-\x1f]""")


@dataclass(frozen=True)
class Timeouts:
    """How long the edge waits, seconds.

    `header` is for a whole TLS handshake and for a request's whole header; `body` and `send` are between two reads or
    writes; `idle` is for a connection without a request; `upstream` is between two reads from the SuperLink.
    """

    header: int = 10
    body: int = 30
    send: int = 30
    idle: int = 30
    upstream: int = 75


def nginx_text(config: ServerConfig, clinics: Sequence[ClinicRecord], timeouts: Timeouts, certificates: str) -> str:
    """Return the configuration.

    Args:
        config: of the server.
        clinics: all that are known; those that are revoked are left out.
        timeouts: how long to wait for a client.
        certificates: a digest of the certificates in use, written into a comment.

    Raises:
        ServerConfigError: a path holds a character that nginx has a use for.
    """
    edge, folder = config.file.edge, config.state / "nginx"
    address = f"[{edge.address}]" if ":" in edge.address else edge.address
    temporary = "\n    ".join(
        f"{kind}_temp_path {_quoted(folder / kind)};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
# Written by melfed-server; changes are overwritten. Certificates: {certificates}
{_user()}pid {_quoted(folder / "nginx.pid")};
error_log {_quoted(folder / "error.log")} warn;
worker_processes 2;
worker_rlimit_nofile 8192;
# Workers with an old list of clinics end their requests and go.
worker_shutdown_timeout 60s;

events {{
    worker_connections 4000;
}}

http {{
    {temporary}
    server_tokens off;
    default_type application/octet-stream;
    map_hash_bucket_size 128;

    # A clinic's certificate, by its serial number: the clinic's name, and the only node key that it may speak for.
    map $ssl_client_serial $melfed_clinic {{
        default "";
{_lines(f'"{serial}" "{clinic.name}";' for clinic in clinics for serial in clinic.serials)}    }}
    map $ssl_client_serial $melfed_key {{
        default "";
{_lines(f'"{serial}" "{key_header(clinic.node_key)}";' for clinic in clinics for serial in clinic.serials)}    }}

    # Without query strings, without headers, and without the polls that went well: several a second, day and night.
    map "$status $uri" $melfed_logged {{
        default 1;
{_lines(f'"200 /v1/fleet/{name}" 0;' for name in _POLLS)}    }}
    # What a stranger writes is not written down, and of what a clinic does not too much: no line is long.
    map $request_method $melfed_method {{
        default "-";
        "~^(?<melfed_word>[A-Z]{{1,10}})$" $melfed_word;
    }}
    map "$ssl_client_verify $uri" $melfed_path {{
        default "-";
        "~^SUCCESS (?<melfed_start>.{{1,{_PATH}}})" $melfed_start;
    }}
    log_format edge escape=json '{{"time":"$time_iso8601","address":"$remote_addr","clinic":"$melfed_clinic",'
        '"certificate":"$ssl_client_verify","method":"$melfed_method","path":"$melfed_path","status":"$status",'
        '"bytes_in":"$request_length","bytes_out":"$bytes_sent","seconds":"$request_time"}}';
    access_log {_quoted(folder / "access.log")} edge if=$melfed_logged;

    # A clinic that asks too fast is slowed down first, and refused (429) only far beyond: Flower gives up on a 429.
    limit_req_zone $ssl_client_serial zone=requests:1m rate={edge.requests_per_second}r/s;
    limit_req_status 429;
    limit_req_log_level notice;
    limit_conn_zone $binary_remote_addr zone=connections:1m;
    limit_conn_status 429;
    limit_conn_log_level notice;

    upstream superlink {{
        server {config.superlink} max_fails=0;
        keepalive 16;
        # Less than the five seconds after which the SuperLink closes a connection that idles.
        keepalive_timeout 3s;
    }}

    server {{
        listen {address}:{edge.port} ssl;
        ssl_certificate {_quoted(config.certificate)};
        ssl_certificate_key {_quoted(config.certificate_key)};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
        ssl_client_certificate {_quoted(config.ca_certificate)};
        ssl_verify_client on;
        ssl_verify_depth 1;
        # Every connection shows its certificate anew, so that one that has ended is not resumed.
        ssl_session_cache off;
        ssl_session_tickets off;

        client_header_timeout {timeouts.header}s;
        client_body_timeout {timeouts.body}s;
        send_timeout {timeouts.send}s;
        keepalive_timeout {timeouts.idle}s;
        keepalive_time 10m;
        lingering_time 5s;
        lingering_timeout 2s;
        reset_timedout_connection on;

        client_max_body_size {edge.largest_body_mb}m;
        # Flower's pieces are of 5 MiB: they stay in memory. A body is passed on when it is whole, so that a slow sender
        # holds nothing of the SuperLink's.
        client_body_buffer_size 8m;
        limit_req zone=requests burst={edge.requests_per_second * 4} delay={edge.requests_per_second};
        limit_conn connections {edge.connections};

        error_page 402 403 404 405 408 411 412 413 415 416 421 429 500 501 502 503 504 507 @bare;
        # What cannot be read has no path, which nginx needs in order to come to a named location.
        error_page 400 414 494 505 /unreadable;
        # No certificate, a wrong one, no TLS at all.
        error_page 495 496 497 =400 @bare;

        location / {{
            return 404;
        }}

{_fleet(config, timeouts, f"~ ^/v1/fleet/(?:{'|'.join(name for name in FLEET if name != PUSH)})$")}
{_fleet(config, timeouts, f"= /v1/fleet/{PUSH}", _BY_FILE)}
        location {OBJECTS} {{
            internal;
            root {_quoted(config.state)};
            default_type application/protobuf;
            etag off;
            if_modified_since off;
            max_ranges 0;
            output_buffers 2 256k;
        }}

        # An error's number, and no page that tells what answers.
        location @bare {{
            return 200 "";
        }}
        location = /unreadable {{
            internal;
            return 200 "";
        }}
    }}
}}
"""


_BY_FILE = f"""\
            # SuperLink, on this machine, reads a body where nginx has put it.
            client_body_in_file_only clean;
            client_body_buffer_size 512k;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header {BODY_HEADER} $request_body_file;
"""
_NO_FILE = f"""\
            proxy_set_header {BODY_HEADER} "";
"""


def _fleet(config: ServerConfig, timeouts: Timeouts, match: str, body: str = _NO_FILE) -> str:
    """Return a location of requests to SuperLink.

    Args:
        config: of the server.
        timeouts: how long to wait.
        match: which requests, as nginx says it.
        body: how SuperLink gets their bodies.
    """
    return f"""\
        location {match} {{
            # As it was written: no query string, nothing encoded, no dots.
            if ($request_uri != $uri) {{
                return 404;
            }}
            if ($request_method != POST) {{
                return 404;
            }}
            if ($melfed_key = "") {{
                return 403;
            }}
            if ($http_{KEY_HEADER.replace("-", "_")} != $melfed_key) {{
                return 403;
            }}
            proxy_pass https://superlink;
            proxy_http_version 1.1;
            proxy_set_header Host localhost;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For "";
            proxy_set_header X-Forwarded-Proto "";
            # Not the client's own headers: they could stand twice, or lie.
            proxy_set_header {KEY_HEADER} $melfed_key;
            proxy_set_header {ADDRESS_HEADER} $remote_addr;
            # For `melfed-client doctor`: told to clinics alone.
            add_header {VERSIONS_HEADER} "{versions_header()}" always;
            proxy_ssl_verify on;
            proxy_ssl_verify_depth 1;
            proxy_ssl_trusted_certificate {_quoted(config.ca_certificate)};
            proxy_ssl_name localhost;
            proxy_ssl_protocols TLSv1.2 TLSv1.3;
            proxy_connect_timeout 5s;
            proxy_send_timeout {timeouts.upstream}s;
            proxy_read_timeout {timeouts.upstream}s;
            proxy_next_upstream off;
            proxy_request_buffering on;
            proxy_buffer_size 16k;
            proxy_buffers 16 64k;
            proxy_max_temp_file_size 0;
{body}        }}
"""


def _user() -> str:
    """Let nginx's workers be who started it: as root it would make them a user that cannot enter the state folder."""
    if os.geteuid() != 0:
        return ""
    return f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(os.getegid()).gr_name};\n"


def _quoted(path: Path) -> str:
    if _SPECIAL.search(str(path)):
        raise ServerConfigError(f"{path}: nginx cannot use this path; leave out quotes, $, ;, \\, {{ and }}")
    return f'"{path}"'


def _lines(lines: Iterator[str]) -> str:
    return "".join(f"        {line}\n" for line in lines)
