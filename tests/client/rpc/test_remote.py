"""The worker at the other end of its socket answers, and fails, as the worker itself does."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from melfed.client.rpc import remote as rpc
from melfed.client.rpc.api import Description
from melfed.common.errors import CancelledError, DeclinedError, MelfedError, ServiceError, StudyError
from melfed.common.tensors import TensorError
from tests.client.fake_worker import MOMENTS, PRIVATE, STUDY, TENSORS, Clinic
from tests.client.served import remote, served, until

REPOSITORY = Path(__file__).resolve().parents[3]


def test_describe(clinic: Clinic, folder: Path) -> None:
    worker = remote(folder)
    assert worker.clinic is None
    expected = Description("north", STUDY.digest, {"train_images": 120}, "1.2", 3.5, ("any",), 4.5, True, 8)
    assert worker.describe() == expected
    assert worker.clinic == "north"
    row = json.loads((folder / "audit.jsonl").read_text())
    assert (row["kind"], row["run"], row["flower_run"]) == ("describe", "run", 7)


def test_summarise(clinic: Clinic, folder: Path) -> None:
    worker = remote(folder, study=PRIVATE)
    summarised = worker.summarise(PRIVATE.digest, "run")
    assert {part: moments.features for part, moments in summarised.items()} == {"train": 2, "validation": 2}
    assert summarised["train"].to_arrays().keys() == MOMENTS.to_arrays().keys()
    assert all(np.array_equal(summarised["train"].to_arrays()[n], a) for n, a in MOMENTS.to_arrays().items())
    account = worker.account()
    assert account is not None
    assert account.noise_multiplier == 3.0
    with pytest.raises(StudyError, match="the request means study"):
        worker.summarise("f" * 64, "run")


def test_train(clinic: Clinic, folder: Path) -> None:
    worker = remote(folder, study=PRIVATE)
    reply = worker.train(TENSORS, 2, PRIVATE.digest, "run")
    direct = clinic.ready(PRIVATE)
    direct.charged = 0
    expected = direct.train(TENSORS, 2, PRIVATE.digest, "run")
    assert reply.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert reply.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(reply.tensors[name], tensor)
    assert reply.validation is not None
    assert expected.validation is not None
    assert reply.validation.to_lists() == expected.validation.to_lists()
    same = [dataclasses.replace(each, tensors={}, validation=None) for each in (reply, expected)]
    assert same[0] == same[1]
    assert worker.account() == expected.account
    assert remote(folder).train(TENSORS, 1, STUDY.digest, "run").validation is None


def test_evaluate(clinic: Clinic, folder: Path) -> None:
    worker = remote(folder, study=PRIVATE)
    scored = worker.evaluate(TENSORS, PRIVATE.digest, "run")
    expected = clinic.ready(PRIVATE).evaluate(TENSORS, PRIVATE.digest, "run")
    assert {part: histogram.to_lists() for part, histogram in scored.items()} == {
        part: histogram.to_lists() for part, histogram in expected.items()
    }
    account = worker.account()
    assert account is not None
    assert account.head == "0" * 64
    assert account.evaluation_noise_multiplier is None


@pytest.mark.parametrize(
    "error", [StudyError("the loss"), TensorError("w is odd"), DeclinedError("ε is spent"), CancelledError("off")]
)
def test_errors_keep_their_class_and_words(clinic: Clinic, folder: Path, error: MelfedError) -> None:
    clinic.ready().error = error
    worker = remote(folder)
    for ask in (worker.describe, lambda: worker.train(TENSORS, 1, STUDY.digest, "run")):
        with pytest.raises(type(error)) as raised:
            ask()
        assert type(raised.value) is type(error)
        assert str(raised.value) == str(error)
    assert worker.clinic == "north"


def test_without_a_worker_it_says_so_at_the_deadline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "GRACE_SECONDS", 0.2)
    started = time.monotonic()
    expected = f"^the worker does not answer on {folder}/w.sock; is melfed-client worker running\\?$"
    with pytest.raises(ServiceError, match=expected):
        remote(folder, 0.5).describe()
    with pytest.raises(ServiceError, match=expected):
        rpc.cancel(folder / "w.sock", 7, 0.5)
    assert time.monotonic() - started < 10


def test_a_worker_that_is_busy_until_the_deadline_says_so_itself(clinic: Clinic, folder: Path) -> None:
    clinic.ready().go.clear()
    started = time.monotonic()
    with pytest.raises(CancelledError, match="deadline has passed"):
        remote(folder, 0.5).train(TENSORS, 1, STUDY.digest, "run")
    assert time.monotonic() - started < 10


def test_cancel(clinic: Clinic, folder: Path) -> None:
    clinic.ready().go.clear()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(remote(folder).train, TENSORS, 1, STUDY.digest, "run")
        assert clinic.ready().begun.wait(60)
        assert rpc.cancel(folder / "w.sock", 8) == 0
        assert rpc.cancel(folder / "w.sock", 7) == 1
        with pytest.raises(CancelledError, match="called the work off"):
            reply.result(60)


def test_the_work_goes_on_without_its_messenger(clinic: Clinic, folder: Path) -> None:
    worker = clinic.ready()
    worker.go.clear()
    code = (
        "import sys, numpy as np; from pathlib import Path; from melfed.client.rpc.remote import RemoteWorker\n"
        "study, digest, socket = sys.argv[1:]\n"
        "tensors = {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.zeros(0, np.float32)}\n"
        "RemoteWorker(Path(socket), study, 60, 7).train(tensors, 1, digest, 'run')\n"
    )
    arguments = [STUDY.model_dump_json(), STUDY.digest, str(folder / "w.sock")]
    messenger = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=REPOSITORY)
    assert worker.begun.wait(10)
    messenger.kill()
    messenger.wait(10)
    worker.go.set()
    until(lambda: worker.trained == [("run", 1)])
    remote(folder).train(TENSORS, 1, STUDY.digest, "run")
    assert worker.trained == [("run", 1)]


@pytest.mark.parametrize("signal", ["KILL", "nothing was there"])
def test_a_worker_that_comes_back_costs_no_message(folder: Path, signal: str) -> None:
    def start(*how: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.client.served", str(folder), *how]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process

    processes = [start("held")] if signal == "KILL" else []
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(remote(folder, 60).train, TENSORS, 2, STUDY.digest, "run")
            if signal == "KILL":
                until((folder / "begun").exists)
                processes[0].kill()
                processes[0].wait(10)
            else:
                time.sleep(0.5)
            processes.append(start())
            np.testing.assert_array_equal(reply.result(30).tensors["w"], TENSORS["w"] + 2)
        assert [json.loads(line)["id"] for line in (folder / "audit.jsonl").read_text().splitlines()] == [1005]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
            process.stdout.close()


def test_a_stopping_worker_is_waited_out(folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        with served(folder) as clinic:
            clinic.ready().go.clear()
            reply = pool.submit(remote(folder, 30).train, TENSORS, 1, STUDY.digest, "run")
            assert clinic.ready().begun.wait(60)
            clinic.service.stop(5)
        with served(folder) as clinic:
            np.testing.assert_array_equal(reply.result(20).tensors["w"], TENSORS["w"] + 1)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"w": np.array(["a"])}, "tensors cannot be sent"),
        ({"w": np.array([object()])}, "tensors cannot be sent"),
        ({"__metadata__": np.zeros(1, np.float32)}, "tensors cannot be"),
    ],
)
def test_tensors_of_no_known_kind_are_refused(clinic: Clinic, folder: Path, tensors: dict, reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        remote(folder).train(tensors, 1, STUDY.digest, "run")


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return float(found[1]) / 1024


def test_a_hundred_megabytes(clinic: Clinic, folder: Path) -> None:
    code = (
        "import re, sys, time, numpy as np; from pathlib import Path\n"
        "from melfed.client.rpc.remote import RemoteWorker\n"
        "study, digest, socket = sys.argv[1:]\n"
        "tensors = {f'w{n}': np.full((2_500_000,), n, np.float32) for n in range(10)}\n"
        "started = time.monotonic()\n"
        "reply = RemoteWorker(Path(socket), study, 60, 7).train(tensors, 1, digest, 'run')\n"
        "assert all((reply.tensors[name] == tensor + 1).all() for name, tensor in tensors.items())\n"
        "seconds = time.monotonic() - started\n"
        "print(seconds, re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_mib()
    arguments = [STUDY.model_dump_json(), STUDY.digest, str(folder / "w.sock")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    seconds, peak = float(done.stdout.split()[0]), float(done.stdout.split()[1]) / 1024
    grown = peak_mib() - before
    sys.stdout.write(f"\n100 MB there and back: {seconds:.1f} s; messenger {peak:.0f} MiB; worker +{grown:.0f} MiB\n")
    assert seconds < 20
    assert peak < 700
    assert grown < 700


def test_it_is_quick_to_import_and_loads_no_torch() -> None:
    code = (
        "import time; started = time.perf_counter()\n"
        "import melfed.client.rpc.remote, melfed.client.flower.client_app\n"
        "seconds = time.perf_counter() - started\n"
        "import sys\n"
        "heavy = {'torch', 'torchvision', 'timm', 'opacus', 'ray', 'scipy', 'dp_accounting'} & set(sys.modules)\n"
        "print(seconds, sorted(heavy))"
    )
    seconds, heavy = min(
        subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
        ).stdout.split(maxsplit=1)
        for _ in range(2)
    )
    sys.stdout.write(f"\nimport: {float(seconds):.2f} s\n")
    assert heavy.strip() == "[]"
    assert float(seconds) < 1.5


def test_a_door_that_refuses_is_said_at_once_with_its_mend(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "GRACE_SECONDS", 0.2)
    refused: list[tuple[int, int]] = []
    expected = (
        r"refuses the messenger's user \(uid \d+\); set messenger.user in clinic.yaml .*, and restart the worker$"
    )
    started = time.monotonic()
    with served(folder, users=set(), refused=refused):
        with pytest.raises(ServiceError, match=expected):
            remote(folder, 20).describe()
        with pytest.raises(ServiceError, match=expected):
            rpc.cancel(folder / "w.sock", 7, 0.5)
    assert time.monotonic() - started < 10, "nobody waits for what only a restart mends"
    assert (os.geteuid(), os.getpid()) in refused
    assert threading.active_count() < 50
