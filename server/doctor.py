"""The coordinator's doctor: everything that can keep its server from running, examined within a minute or so.

No check changes anything that the server uses, so it can be asked while the server runs.
"""

import ctypes
import os
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from melfed.common.doctor.kit import (
    EXPIRY_DAYS,
    GIB,
    certificate,
    days_left,
    disk_space,
    only_owner_writes,
    private_folders,
    secrets,
    versions,
)
from melfed.common.doctor.ports import ports
from melfed.common.doctor.steps import Check, Finding, Step, bad, doubtful, examine_steps, good, skipped
from melfed.common.errors import MelfedError, RunError, ServerConfigError, ServiceError, StorageError
from melfed.common.model.weights import SUFFIXES
from melfed.server.clinics.certificates import read_certificate
from melfed.server.clinics.registry import read_clinics
from melfed.server.config import ServerConfig
from melfed.server.edge.nginx import Edge
from melfed.server.flower.app_bundle import bundle_digest, check_bundle
from melfed.server.runs.state import read_state

NEW_KIT: Final = "put the kit's own file back, or provision the server anew (melfed-server provision)"
NEEDED_BYTES: Final = 5 * GIB
"""For Flower's database, checkpoints and logs of a study of usual size."""

DATABASE_SECONDS: Final = 20.0
_OPCODES: Final = 100_000
_SQLITE: Final = b"SQLite format 3\0"
_UNSYNCHRONISED: Final = 5
"""TIME_ERROR of adjtimex(2)."""

_UNPRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def examine_server(config: ServerConfig, on_check: Callable[[Check], None] | None = None) -> list[Check]:
    """Return what the doctor finds; nothing raises, and each check is bounded in time.

    Args:
        config: the coordinator's.
        on_check: called with each check as soon as it is known.
    """
    return examine_steps(_steps(config), on_check)


def _steps(config: ServerConfig) -> Iterator[Step]:
    yield Step("server.yaml", lambda: configuration(config))
    yield Step("versions", versions)
    yield Step("secrets", lambda: secrets([config.certificate_key, config.superexec_secret], NEW_KIT))
    yield Step("certificate", lambda: server_certificate(config))
    yield Step("state folder", lambda: private_folders([config.state]))
    yield Step("clinics", lambda: clinics(config))
    yield Step("bundle", lambda: bundle(config))
    yield Step("nginx", lambda: nginx(config), 70, needs=("certificate", "clinics"))
    yield Step("ports", lambda: server_ports(config))
    yield Step("disk", lambda: disk(config))
    yield Step("runs", lambda: runs(config), 30)
    yield Step("weights", lambda: weights(config))
    yield Step("database", lambda: database(config), DATABASE_SECONDS + 10)
    yield Step("audit log", lambda: audit_log(config), 30)
    yield Step("clock", clock)


def configuration(config: ServerConfig) -> Finding:
    """Judge who may write `server.yaml`."""
    edge = config.file.edge
    return only_owner_writes(config.path) or good(f"{config.file.name}, {edge.address}, port {edge.port}")


def server_certificate(config: ServerConfig) -> Finding:
    """Judge the server's certificate, and whether it names the server as clinics do."""
    found = certificate(config.certificate, config.certificate_key, config.ca_certificate, NEW_KIT)
    if found.status == "failed":
        return found
    names = set(read_certificate(config.certificate).names)
    if missing := {"localhost", "127.0.0.1"} - names:
        return bad(f"server.crt is not for {', '.join(sorted(missing))}, as nginx and Flower need", NEW_KIT)
    if found.status == "ok" and names == {"localhost", "127.0.0.1"}:
        return doubtful("server.crt is for this machine alone", "provision it with the name that clinics know it by")
    return found._replace(detail=f"{found.detail}, for {', '.join(sorted(names))}")


def clinics(config: ServerConfig) -> Finding:
    """Count the clinics that are let in, and warn of certificates that end soon."""
    try:
        records = read_clinics(config.clinics)
    except ServerConfigError as error:
        return bad(str(error), f"mend or remove that file of {config.clinics}")
    inside = [record for record in records if not record.revoked]
    text = f"{len(inside)} let in, {len(records) - len(inside)} revoked"
    if not inside:
        return doubtful(text, "let clinics in: melfed-server approve")
    ending = [record.name for record in inside if _days_of(record.not_after) < EXPIRY_DAYS]
    if ending:
        return doubtful(
            f"{text}; certificates of {', '.join(ending)} end within {EXPIRY_DAYS} days",
            "renew them: melfed-server provision, and send the clinics the new ones",
        )
    return good(text)


def bundle(config: ServerConfig) -> Finding:
    """Judge whether the app bundle is that of this version; clinics let it run by its digest."""
    try:
        content = config.bundle.read_bytes()
        check_bundle(content, str(config.bundle))
    except FileNotFoundError:
        return bad(f"{config.bundle.name} is missing", NEW_KIT)
    except ServerConfigError as error:
        return bad(str(error), "clinics name the digest under apps: in clinic.yaml; tell them when it changes")
    return good(f"SHA-256 {bundle_digest(content)}")


def nginx(config: ServerConfig) -> Finding:
    """Have nginx test the configuration that would be written now, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="melfed-doctor-") as folder:
        elsewhere = ServerConfig(config.path, config.file.model_copy(update={"state": folder}))
        try:
            Edge(elsewhere).write(read_clinics(config.clinics))
        except ServiceError as error:
            if "ermission denied" in str(error):
                return doubtful("this user may not try the port", "run the doctor as root, or as the server's user")
            return bad(str(error), "install nginx (apt-get install nginx-light), or mend what it names in server.yaml")
        except MelfedError as error:
            return bad(str(error), NEW_KIT)
    return good("installed, and takes its configuration")


def server_ports(config: ServerConfig) -> Finding:
    """Judge the ports of the server's processes."""
    file = config.file
    named = {
        "edge.port": file.edge.port,
        "superlink_port": file.superlink_port,
        "health_port": file.health_port,
        "metrics_port": file.metrics_port,
    }
    found = ports({what: port for what, port in named.items() if port is not None}, config.path)
    if found.status == "ok" and not _may_open(file.edge.port):
        return doubtful(
            f"{found.detail}; this user may not open port {file.edge.port}",
            "start the server as root or by its systemd unit, or set edge.port to 1024 or more",
        )
    return found


def disk(config: ServerConfig) -> Finding:
    """Judge the space for the state and for the runs, which may be on two disks."""
    found = [disk_space(folder, NEEDED_BYTES) for folder in (config.state, config.runs)]
    order = ("failed", "warning", "ok")
    return min(found, key=lambda each: order.index(each.status))


def runs(config: ServerConfig) -> Finding:
    """Count the runs by their status."""
    if not config.runs.is_dir():
        return good("none yet")
    if not os.access(config.runs, os.W_OK | os.X_OK):
        return bad(f"{config.runs} cannot be written", "give the folder to the server's user")
    counts: Counter[str] = Counter()
    for folder in sorted(path for path in config.runs.iterdir() if path.is_dir()):
        try:
            state = read_state(folder)
        except RunError:
            counts["with a damaged state.json"] += 1
        else:
            counts[state.status if state else "without a state"] += 1
    text = ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "none yet"
    if counts["with a damaged state.json"]:
        return bad(text, "delete that state.json, and go on with melfed-server run --resume")
    return good(text)


def weights(config: ServerConfig) -> Finding:
    """Count the pretrained weights that are here."""
    files = [path for path in config.weights.glob("*") if path.suffix in SUFFIXES] if config.weights.is_dir() else []
    if files:
        return good(f"{len(files)} files in {config.weights}")
    return doubtful(
        f"none in {config.weights}", "copy the weights file of the study's backbone there, or let the server download"
    )


def database(config: ServerConfig, seconds: float = DATABASE_SECONDS) -> Finding:
    """Have SQLite check Flower's databases, reading only; a check that takes longer than `seconds` is given up."""
    files = [path for path in sorted(config.state.glob("*")) if path.is_file() and _is_database(path)]
    if not files:
        return skipped("none yet")
    end = time.monotonic() + seconds
    for path in files:
        try:
            problem = _quick_check(path, end)
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                return skipped(f"{path.name} is too large to be checked within {seconds:g} s")
            return doubtful(f"{path.name} cannot be read now: {error}", "try again; if it stays, stop the server first")
        except sqlite3.DatabaseError as error:
            problem = str(error)
        if problem != "ok":
            mend = f"stop the server, move {path} away and start it: runs are resumed from their checkpoints"
            return bad(f"{path.name} is damaged: {problem}", mend)
    return good(f"{len(files)} whole")


def audit_log(config: ServerConfig) -> Finding:
    """Verify the audit log's chain."""
    from melfed.common.audit.log import verify_log

    if not config.audit_log.exists():
        return skipped("none yet")
    try:
        verified = verify_log(config.audit_log)
    except StorageError as error:
        return bad(str(error), "give the log back to the user of the service")
    if verified.error:
        return bad(verified.error, "keep the file as it is, and find out who wrote to it")
    return good(f"{verified.counted}, chain whole, head {verified.head[:12]}")


def clock() -> Finding:
    """Ask the kernel whether something keeps its clock: clinics sign with theirs, and 300 s apart nobody gets in."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))  # all zero: nothing is set
    except (OSError, AttributeError):
        return skipped("this system does not tell")
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if state < 0:
        return skipped(f"{now}; this system does not tell whether it is kept")
    if state == _UNSYNCHRONISED:
        return doubtful(f"{now}; nothing keeps it", "let the system keep the clock: timedatectl set-ntp true")
    return good(f"{now}, kept")


def _days_of(end: str) -> float:
    """Return how many days are left until an ISO time; none where it is no time."""
    try:
        time_ = datetime.fromisoformat(end)
    except ValueError:
        return 0.0
    return days_left(time_ if time_.tzinfo else time_.replace(tzinfo=UTC))


def _may_open(port: int) -> bool:
    try:
        lowest = int(_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        lowest = 1024
    return os.geteuid() == 0 or port >= lowest


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def _quick_check(path: Path, end: float) -> str:
    """Return SQLite's verdict. Raises sqlite3.DatabaseError; OperationalError "interrupted" after the time `end`."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=2)
    try:
        connection.set_progress_handler(lambda: int(time.monotonic() > end), _OPCODES)
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    finally:
        connection.close()
