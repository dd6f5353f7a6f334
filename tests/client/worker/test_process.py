"""The worker as a process: it answers on its socket, survives kill -9, and leaves when it is told to."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from melfed.client.approval.approvals import approve, revoke
from melfed.client.config.clinic import ClinicConfig, read_clinic
from melfed.client.data.split import simulation_key
from melfed.client.ledger.ledger import verify
from melfed.client.rpc.remote import RemoteWorker
from melfed.client.worker.worker import ClinicWorker
from melfed.common.audit.log import read_log, verify_log
from melfed.common.errors import DeclinedError, ServiceError
from melfed.common.model.classifier import trainable_tensors
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study

REPOSITORY = Path(__file__).resolve().parents[3]
MAIN = """
import signal, sys, threading
from pathlib import Path
from melfed.client.config.clinic import read_clinic
from melfed.client.worker.process import serve
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
serve(read_clinic(Path(sys.argv[1])), stop, lambda: print("ready", flush=True))
"""
PARTS = {"by": "source", "minimum_images": 4}
STUDY = small_study(partition=PARTS)
LONG = small_study(name="long", partition=PARTS, training={"local_epochs": 30.0})
PRIVATE = small_study(
    name="private",
    partition=PARTS,
    training={"optimizer": "sgd"},
    privacy={"unit": "patient", "noise_multiplier": 5.0, "recipe": "manual", "steps": 15},
)


class Process:
    """The worker's process."""

    def __init__(self, config: ClinicConfig) -> None:
        command = [sys.executable, "-c", MAIN, str(config.path)]
        self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(how)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def config(phantom: Path) -> Iterator[ClinicConfig]:
    with tempfile.TemporaryDirectory(prefix="kit") as name:
        path = Path(name, "clinic.yaml")
        path.write_text(
            f"name: phantom_north\ncoordinator: {{host: localhost}}\n"
            f"data: {{folder: {phantom}, sources: [phantom_north]}}\n"
            f"resources: {{device: cpu, threads: {torch.get_num_threads()}}}\n"
            f"health_port: {free_port()}\nmetrics_port: {free_port()}\n"
            f"policy: {{epsilon: 5000, noise_multiplier: 0.5, non_private: true, studies: []}}\n"
        )
        config = read_clinic(path)
        # The secret that a simulation of seed 0 has: the clinic's images are divided as its virtual twin's.
        secret = config.ledger.with_suffix(".key")
        secret.parent.mkdir(mode=0o700, parents=True)
        secret.write_bytes(simulation_key(seed_for(0, "partition")))
        secret.chmod(0o600)
        yield config


@pytest.fixture
def tensors() -> Tensors:
    return trainable_tensors(small_model(STUDY))


COUNTED = ("reserved", "spent", "released")
"""Of the charge for a run's counts, which comes first."""


def remote(config: ClinicConfig, study: StudyProtocol, seconds: float = 60.0) -> RemoteWorker:
    return RemoteWorker(config.socket, study.model_dump_json(), seconds, 1)


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def events(config: ClinicConfig) -> list[int]:
    return [json.loads(line)["id"] for line in config.audit_log.read_text().splitlines()]


def test_a_clinic_answers_as_its_virtual_twin_does(
    config: ClinicConfig, tensors: Tensors, phantom_clinics: VirtualClinics
) -> None:
    twin = ClinicWorker(phantom_clinics.clinics[0], STUDY, None, CPU)
    process = Process(config)
    try:
        with pytest.raises(DeclinedError, match="not approved here"):
            remote(config, STUDY).describe()
        approve(config, STUDY.digest, "tester", round_minutes=8)
        described = remote(config, STUDY).describe("run")
        assert (described.clinic, described.counts) == ("phantom_north", twin.describe("run").counts)
        assert (described.budget, described.approved) == (None, (STUDY.digest,))
        assert (described.synthetic, described.round_minutes) == (True, 8)
        for number in (1, 2):
            started = time.monotonic()
            reply = remote(config, STUDY).train(tensors, number, STUDY.digest, "run")
            asked = time.monotonic() - started
            started = time.monotonic()
            expected = twin.train(tensors, number, STUDY.digest, "run")
            alone = time.monotonic() - started
            assert all((reply.tensors[name] == tensor).all() for name, tensor in expected.tensors.items())
            assert reply.loss == expected.loss
        sys.stdout.write(f"\nwarm second round: {asked * 1000:.0f} ms, in this process {alone * 1000:.0f} ms\n")
        assert asked - alone < 1
        scored = remote(config, STUDY).evaluate(reply.tensors, STUDY.digest, "run")
        assert scored["test"].to_lists() == twin.evaluate(reply.tensors, STUDY.digest, "run")["test"].to_lists()
        revoke(config, STUDY.digest[:8], "tester")
        with pytest.raises(DeclinedError, match="not approved here"):
            remote(config, STUDY).train(tensors, 2, STUDY.digest, "run")
        assert_watched(config)
        assert_alone(config)
        assert process.end(signal.SIGTERM) == 0
    finally:
        process.end()
    assert events(config) == [1001, 1006, 1003, 1005, 1005, 1005, 1005, 1004, 1006, 1002]
    assert verify_log(config.audit_log).error is None
    assert not config.socket.exists()
    assert config.worker_state.stat().st_mode & 0o777 == 0o700
    text = config.audit_log.read_text()
    assert ".png" not in text
    assert ".jpg" not in text


def assert_watched(config: ClinicConfig) -> None:
    """Health and metrics are on loopback; the service itself is not."""
    with grpc.insecure_channel(f"127.0.0.1:{config.file.health_port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(service=""), timeout=5).status == 1
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/melfed.Worker/Describe")(b"", timeout=5)
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with urllib.request.urlopen(f"http://127.0.0.1:{config.file.metrics_port}/metrics", timeout=5) as page:
        text = page.read().decode()
    assert "melfed_rounds_total 2.0" in text
    assert 'melfed_requests_total{kind="train",outcome="declined"} 1.0' in text


def assert_alone(config: ClinicConfig) -> None:
    """A second worker does not start, and takes nothing from the first."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, str(config.path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert "the clinic's worker is run by process" in done.stderr
    assert config.socket.exists()


def test_a_worker_killed_in_private_training_costs_no_message_and_no_budget_twice(
    config: ClinicConfig, tensors: Tensors
) -> None:
    approve(config, PRIVATE.digest, "tester")
    processes = [Process(config)]
    try:
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(remote(config, PRIVATE, 120).train, tensors, 1, PRIVATE.digest, "run")
            until(lambda: config.ledger.exists() and '"training"' in config.ledger.read_text())
            processes[0].end()
            assert [row.status for row in verify(config.ledger).rows] == [*COUNTED, "reserved"]
            processes.append(Process(config))
            first = reply.result(60)
        assert [row.status for row in verify(config.ledger).rows] == [*COUNTED, "reserved", "spent", "released"]
        processes[1].end()
        processes.append(Process(config))
        again = remote(config, PRIVATE).train(tensors, 1, PRIVATE.digest, "run")
        assert all((again.tensors[name] == tensor).all() for name, tensor in first.tensors.items())
        assert again.account == first.account
        assert len(verify(config.ledger).rows) == 6
        with urllib.request.urlopen(f"http://127.0.0.1:{config.file.metrics_port}/metrics", timeout=5) as page:
            assert "melfed_epsilon" not in page.read().decode(), "tell.budget is false"
    finally:
        for process in processes:
            process.end()
    assert events(config).count(1005) == 1
    assert events(config)[-1] == 1008


def test_it_leaves_within_seconds_of_sigterm_in_training_and_the_next_one_answers(
    config: ClinicConfig, tensors: Tensors, phantom_clinics: VirtualClinics
) -> None:
    for study in (STUDY, LONG):
        approve(config, study.digest, "tester")
    process = Process(config)
    try:
        remote(config, STUDY).train(tensors, 1, STUDY.digest, "warm")
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(remote(config, LONG, 120).train, tensors, 1, LONG.digest, "run")
            time.sleep(0.2)
            assert not reply.done()
            started = time.monotonic()
            assert process.end(signal.SIGTERM) == 0
            assert time.monotonic() - started < 5
            process = Process(config)
            learnt = reply.result(60).tensors
        twin = ClinicWorker(phantom_clinics.clinics[0], LONG, None, CPU).train(tensors, 1, LONG.digest, "run")
        assert all(np.array_equal(learnt[name], tensor) for name, tensor in twin.tensors.items())
    finally:
        process.end()
    assert events(config) == [1003, 1003, 1001, 1005, 1009, 1002, 1001, 1005]
    assert [row["reason"] for row in read_log(config.audit_log) if row["id"] == 1002] == ["asked to stop"]


def test_what_cannot_be_served_is_one_line(config: ClinicConfig) -> None:
    from melfed.client.worker.process import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", config.file.metrics_port))
        taken.listen()
        with pytest.raises(ServiceError, match=r"^metrics_port \d+ on 127\.0\.0\.1 cannot be used: .*clinic\.yaml$"):
            serve(config, threading.Event())
    assert not config.socket.exists()
    assert [row["reason"] for row in read_log(config.audit_log)] == ["could not begin"]
