"""Who may speak to the worker is decided by the kernel's word, and the bytes of those arrive as they were sent."""

import hashlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from melfed.client.rpc import peer_credentials as peer
from melfed.client.rpc.peer_credentials import REFUSAL, Door, Refusals, check_path, knock
from melfed.common.errors import ServiceError
from tests.client.served import served

ME = os.geteuid()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="door") as name:
        yield Path(name)


@pytest.fixture
def echo(folder: Path) -> Iterator[Path]:
    """A server that sends back what it gets."""
    path = folder / "inner.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(64)

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(5)
    connection.connect(str(path))
    return connection


def test_those_that_may_come_in_are_passed_on(folder: Path, echo: Path) -> None:
    with Door(folder / "w.sock", echo, {ME}, lambda *_: pytest.fail("refused")), connect(folder / "w.sock") as guest:
        sent = os.urandom(3_000_001)
        threading.Thread(target=guest.sendall, args=(sent,), daemon=True).start()
        received = bytearray()
        while len(received) < len(sent):
            received += guest.recv(1 << 16)
        assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


def test_others_are_closed_and_named(folder: Path, echo: Path) -> None:
    refused: list[tuple[int, int]] = []
    with Door(folder / "w.sock", echo, {ME + 1}, lambda *who: refused.append(who)), connect(folder / "w.sock") as guest:
        assert guest.recv(100) == REFUSAL
        assert guest.recv(1) == b""
        assert knock(folder / "w.sock") == "refuses"
    assert refused == [(ME, os.getpid())] * 2


@pytest.mark.skipif(ME != 0, reason="only root can become another user")
def test_another_user_is_refused_by_the_kernels_word_even_where_the_mode_lets_it_in(folder: Path, echo: Path) -> None:
    refused: list[tuple[int, int]] = []
    code = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1]); print(s.recv(99))"
    )
    folder.chmod(0o755)
    with Door(folder / "w.sock", echo, {0}, lambda *who: refused.append(who)):
        command = [sys.executable, "-c", code, str(folder / "w.sock")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert "PermissionError" in done.stderr, "the mode of the socket comes first"
        (folder / "w.sock").chmod(0o666)
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == f"{REFUSAL!r}\n"
    assert [uid for uid, _ in refused] == [65534]


def test_the_socket_is_for_its_group_and_replaces_one_that_a_crash_has_left(folder: Path, echo: Path) -> None:
    (folder / "w.sock").touch()
    with Door(folder / "w.sock", echo, {ME}, lambda *_: None):
        status = (folder / "w.sock").stat()
        assert stat.S_ISSOCK(status.st_mode)
        assert status.st_mode & 0o777 == 0o660
        assert status.st_gid == folder.stat().st_gid
    assert not (folder / "w.sock").exists()


def test_it_closes_all_that_is_open(folder: Path, echo: Path) -> None:
    with Door(folder / "w.sock", echo, {ME}, lambda *_: None):
        guest = connect(folder / "w.sock")
        guest.sendall(b"x")
        assert guest.recv(1) == b"x"
    with guest:
        assert guest.recv(1) == b""


def test_a_knock_tells_a_worker_from_a_door_without_one(folder: Path, echo: Path) -> None:
    assert knock(folder / "w.sock") == "silent"
    with Door(folder / "w.sock", folder / "none.sock", {ME}, lambda *_: None):
        assert knock(folder / "w.sock") == "silent"
    with Door(folder / "w.sock", echo, {ME}, lambda *_: None):
        assert knock(folder / "w.sock", 0.1) == "silent", "somebody who is no gRPC server"
    with served(folder):
        assert knock(folder / "w.sock") == "answers"
    (folder / "w.sock").touch()
    assert knock(folder / "w.sock") == "silent"


def test_a_refused_user_is_told_of_at_once_and_then_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(peer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told: list[tuple[int, int, int]] = []
    refusals = Refusals(lambda *who: told.append(who))
    for second in range(150):
        now[0] = 100.0 + second
        refusals(998, second)
    refusals(5, 1)
    assert told == [(998, 0, 1), (998, 60, 60), (998, 120, 60), (5, 1, 1)]


def test_a_guest_that_leaves_frees_its_place(folder: Path, echo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "MOST_CONNECTIONS", 2)
    with Door(folder / "w.sock", echo, {ME}, lambda *_: None):
        for _ in range(3):
            guests = [connect(folder / "w.sock") for _ in range(2)]
            for guest in guests:
                guest.sendall(b"x")
                assert guest.recv(1) == b"x"
            with connect(folder / "w.sock") as third:
                third.sendall(b"x")
                third.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    third.recv(1)
                for guest in guests:
                    guest.close()
                third.settimeout(5)
                assert third.recv(1) == b"x"


def test_without_a_worker_behind_it_a_guest_is_sent_away(folder: Path) -> None:
    with Door(folder / "w.sock", folder / "inner.sock", {ME}, lambda *_: None), connect(folder / "w.sock") as guest:
        assert guest.recv(1) == b""


def test_no_thread_is_left(folder: Path, echo: Path) -> None:
    before = threading.active_count()
    with Door(folder / "w.sock", echo, {ME}, lambda *_: None):
        for _ in range(5):
            connect(folder / "w.sock").close()
    end = time.monotonic() + 5
    while threading.active_count() > before:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_cannot_be_a_socket_is_said_in_one_line(folder: Path) -> None:
    with pytest.raises(ServiceError, match=r"has at most 107 bytes; move the kit, or name a shorter state$"):
        check_path(folder / ("x" * 107))
    with pytest.raises(ServiceError, match=r"w\.sock: the socket cannot be made: No such file or directory"):
        Door(folder / "none" / "w.sock", folder / "inner.sock", {ME}, lambda *_: None).__enter__()
