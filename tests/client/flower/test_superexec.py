"""The messenger: which bundles it runs, and the processes that it forks."""

import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.flower import superexec as messenger
from melfed.client.flower.superexec import Bundles, Forks
from melfed.common.errors import DeclinedError
from melfed.server.flower.app_bundle import build_bundle, bundle_digest
from tests.client.superlink import REPOSITORY, bundle, free_port, until, write_kit


@pytest.fixture(scope="module")
def other() -> bytes:
    return bundle()


@pytest.fixture
def clinic(tmp_path: Path, other: bytes) -> ClinicConfig:
    """A clinic that approves melfed's own bundle, and another."""
    approved = [bundle_digest(build_bundle()), bundle_digest(other)]
    made = write_kit(tmp_path, approved, free_port())
    made.messenger_state.mkdir(parents=True)
    return made


def unwanted(*_: Any, **__: Any) -> Any:
    raise AssertionError("Flower's own function is not to be called")


def test_an_unknown_bundle_is_refused(clinic: ClinicConfig, other: bytes) -> None:
    changed = other[:-1] + bytes([other[-1] ^ 1])
    with pytest.raises(DeclinedError, match="app bundle SHA is not approved at this clinic") as caught:
        Bundles(clinic, unwanted, unwanted).install(changed, skip_prompt=True)
    assert hashlib.sha256(changed).hexdigest() in str(caught.value)
    (record,) = [json.loads(line) for line in clinic.messenger_audit_log.read_text().splitlines()]
    assert (record["id"], record["sha256"]) == (1010, hashlib.sha256(changed).hexdigest())


def test_without_a_list_nothing_runs(tmp_path: Path) -> None:
    made = write_kit(tmp_path, [], 1)
    made.messenger_state.mkdir(parents=True)
    with pytest.raises(DeclinedError):
        Bundles(made, unwanted, unwanted).install(build_bundle())


def test_melfeds_own_bundle_runs_what_is_installed(clinic: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(messenger.SOCKET_VARIABLE, str(clinic.socket))
    bundles = Bundles(clinic, unwanted, unwanted)
    bundles.install(build_bundle(), skip_prompt=True)
    assert messenger.clientapp_of(build_bundle()) == messenger.OWN_APP
    app = bundles.loader(default_app_ref="", app_path=None, multi_app=True)("melfed/melfed", "1.0.0", "hash")
    assert app is importlib.import_module("melfed.client.flower.deployed").app


def test_another_approved_bundle_is_flowers_business(clinic: ClinicConfig, other: bytes) -> None:
    unpacked: list[bytes] = []
    bundles = Bundles(clinic, lambda content, **_: unpacked.append(content), lambda **_: "Flower's loader")  # type: ignore[arg-type, return-value]
    bundles.install(other, skip_prompt=True)
    assert unpacked == [other]
    assert bundles.loader() == "Flower's loader"


@pytest.fixture
def forks(clinic: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], Forks]]:
    """Makes an executor whose children do something else than Flower's ClientApp."""
    made: list[Forks] = []

    def make(work: Callable[[], None]) -> Forks:
        executor = Forks(clinic)
        monkeypatch.setattr(executor, "_run_clientapp", lambda _spec, _began: work())
        made.append(executor)
        return executor

    yield make
    for executor in made:
        executor.close()


def launch(executor: Forks) -> int:
    assert executor.launch(SimpleNamespace(token="t", runtime_api_address="x")).status == "accepted"  # type: ignore[arg-type]
    return next(reversed(executor.children))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def leave(code: int) -> Callable[[], None]:
    def work() -> None:
        sys.exit(code)

    return work


@pytest.mark.parametrize("code", [0, 1])
def test_a_process_that_has_told_its_end_is_let_go(forks: Any, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(messenger, "_fail_task", unwanted)
    executor = forks(leave(code))
    pid = launch(executor)
    until(lambda: executor.reconcile() or not executor.children, 60)
    assert gone(pid)


def broken() -> None:
    raise OSError("no Flower here")


@pytest.mark.parametrize("work", [lambda: os.kill(os.getpid(), signal.SIGKILL), broken])
def test_one_that_could_not_is_told_for(forks: Any, monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    told: list[str] = []
    monkeypatch.setattr(messenger, "_fail_task", lambda _spec, reason: told.append(reason))
    executor = forks(work)
    launch(executor)
    until(lambda: executor.reconcile() or not executor.children, 60)
    assert told[0] in ("signal 9", f"exit code {messenger.NOT_RUN}")


def test_no_more_processes_than_allowed(forks: Any) -> None:
    executor = forks(lambda: time.sleep(60))
    for _ in range(messenger.MOST_PROCESSES):
        assert executor.get_eligible_capacity(set())[0]
        launch(executor)
    assert executor.get_eligible_capacity(set()) == (set(), set())
    children = list(executor.children)
    started = time.monotonic()
    executor.close()
    assert time.monotonic() - started < 20
    assert all(gone(child) for child in children)


def test_a_process_that_will_not_end_is_ended(forks: Any) -> None:
    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

    executor = forks(stubborn)
    child = launch(executor)
    time.sleep(0.2)
    executor.close()
    assert gone(child)


def test_only_clientapps_are_taken(clinic: ClinicConfig) -> None:
    from flwr.supercore.constant import TaskType

    assert Forks(clinic).get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())


def test_children_die_with_the_messenger(clinic: ClinicConfig) -> None:
    code = f"""
import time; from pathlib import Path; from types import SimpleNamespace
from melfed.client.config.clinic import read_clinic; from melfed.client.flower.superexec import Forks
executor = Forks(read_clinic(Path({str(clinic.path)!r})))
executor._run_clientapp = lambda spec: time.sleep(60)
executor.launch(SimpleNamespace(token="t"))
print(*executor.children, flush=True)
time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "FLWR_TELEMETRY_ENABLED": "0"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        time.sleep(0.2)
        process.kill()
    until(lambda: _dead(child), 60)


def _dead(pid: int) -> bool:
    """Whether a process is gone, or waits for an init that collects it."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"


def test_a_hung_process_ends_when_its_message_expires() -> None:
    code = """
import time; from types import SimpleNamespace
from melfed.client.flower.superexec import _limited
message = SimpleNamespace(metadata=SimpleNamespace(created_at=time.time() - 100, ttl=0.5))
assert _limited(lambda client: (message, None, None, None))(None)[0] is message
time.sleep(60)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=240, check=False)
    assert done.returncode == -signal.SIGALRM


def test_nothing_heavy_is_loaded(clinic: ClinicConfig) -> None:
    code = f"""
import os, sys; from pathlib import Path
from melfed.client.flower import superexec, supernode
assert not [name for name in sys.modules if name.split(".")[0] in ("flwr", "grpc", "torch")], "loaded for --help"
os.environ["MELFED_SOCKET"] = {str(clinic.socket)!r}
import melfed.client.flower.deployed, melfed.client.flower.relay, flwr.supernode.runtime.run_clientapp
assert not [name for name in sys.modules if name.split(".")[0] in ("torch", "opacus", "sklearn", "scipy")]
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "FLWR_TELEMETRY_ENABLED": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, timeout=240, check=True)


def test_the_supernode_is_asked_when_something_has_come_and_now_and_then(
    clinic: ClinicConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messenger, "IDLE_SECONDS", 0.4)
    executor = Forks(clinic)
    executor.files.make()
    executor.idle(0.0)  # what is there already
    began = time.monotonic()
    executor.idle(0.0)
    assert time.monotonic() - began >= 0.4
    monkeypatch.setattr(messenger, "IDLE_SECONDS", 30.0)
    threading.Timer(0.1, executor.files.put, ("a" * 64, b"object")).start()
    began = time.monotonic()
    executor.idle(0.0)
    assert time.monotonic() - began < 15


LOADED = """
import sys

from melfed.client.flower import superexec

superexec.load()
before = set(sys.modules)

from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.exit.exit_handler import registered_exit_handlers
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import make_simple_http_retry_invoker

from melfed.client.flower.object_files import hand, read

patient = make_simple_http_retry_invoker()
RuntimeHttpClient.from_server_address("127.0.0.1:1", True, None, [], retry_invoker=patient).close()
print(sorted(set(sys.modules) - before))
print(sorted({"alembic", "sqlalchemy", "torch"} & set(sys.modules)))
"""


def test_a_message_waits_for_no_import(clinic: ClinicConfig) -> None:
    """Flower's stores bring SQLAlchemy and alembic along: 0.8 s of processor time, for each message at each clinic."""
    environment = {**os.environ, messenger.SOCKET_VARIABLE: str(clinic.socket)}
    command = [sys.executable, "-c", LOADED]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == ["[]", "[]"]
