"""The Control API of a real SuperLink."""

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from melfed.common.errors import ServiceError
from melfed.server.config import ServerConfig, read_server
from melfed.server.flower.control_client import Control, public_key
from melfed.server.flower.superlink import quiet_environment, superlink_arguments
from tests.server.coordinator import make_kits, node_key, record_of
from tests.server.flower_stack import child, superlink, until


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    return make_kits(tmp_path_factory.mktemp("coordinator"))


@pytest.fixture(scope="module")
def control(config: ServerConfig) -> Iterator[Control]:
    before = dict(os.environ)
    with superlink(config) as answering:
        yield answering
    os.environ.clear()
    os.environ.update(before)


def test_a_key_is_registered_unregistered_and_comes_back_as_another_node(control, config):
    record = record_of(config, "a")
    first = control.register(record)
    (node,) = [node for node in control.nodes() if node.name == "a"]
    assert (node.node_id, node.public_key, node.online, node.since) == (first, public_key(record), False, None)
    control.unregister(first)
    assert all(node.name != "a" for node in control.nodes())
    second = control.register(record)
    assert second != first
    assert [node.node_id for node in control.nodes() if node.name == "a"] == [second]


def test_a_key_is_not_registered_twice(control, config):
    record = record_of(config, "b")
    control.register(record)
    with pytest.raises(ServiceError, match="already in use"):
        control.register(record.model_copy(update={"name": "b2"}))
    with pytest.raises(ServiceError, match="refuses to unregister a key"):
        control.unregister(12345)


def test_flower_knows_a_record_by_the_key_itself(config):
    key = serialization.load_ssh_private_key(node_key(config, "c").read_bytes(), None).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert public_key(record_of(config, "c")) == pem


def test_a_run_is_started_listed_and_stopped(control, config):
    first = control.start_run("one", config.bundle.read_bytes())
    second = control.start_run("two", config.bundle.read_bytes())
    runs = control.runs()
    assert [(run.run_id, run.run) for run in runs[:2]] == [(second, "two"), (first, "one")]
    assert all(run.active for run in runs[:2])  # no superexec takes them
    control.stop_run(first)
    control.stop_run(first)  # again
    stopped = {run.run_id: run for run in control.runs()}
    assert (stopped[first].status, stopped[first].active) == ("stopped", False)
    assert stopped[second].active
    control.stop_run(second)


def test_another_bundle_is_not_started(control, config):
    other = config.bundle.read_bytes() + b"\0"  # a zip file all the same, and no longer melfed's
    with child(config, "superexec", config.folder / "superexec.log"):
        run = control.start_run("other", other)
        until("it is refused", lambda: "is not melfed's" in (config.folder / "superexec.log").read_text())
        assert next(each for each in control.runs() if each.run_id == run).status == "starting"
        control.stop_run(run)


def test_the_runtime_interface_wants_the_secret(control, config):
    context = ssl.create_default_context(cafile=str(config.ca_certificate))
    request = urllib.request.Request(
        f"https://{config.superlink}/v1/runtime/acquire-task",
        data=b"",
        headers={"content-type": "application/protobuf", "accept": "application/protobuf"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, context=context, timeout=10)
    assert refused.value.code in (401, 403)


def test_who_is_not_there_is_said(tmp_path):
    config = make_kits(tmp_path)
    with Control(config, seconds=2) as control, pytest.raises(ServiceError, match="see that melfed-server start is"):
        control.nodes()


def test_another_ca_is_not_believed(config, control, tmp_path):
    stranger = make_kits(tmp_path)
    stranger.path.write_text(f"superlink_port: {config.file.superlink_port}\n")
    with Control(read_server(stranger.path), seconds=5) as wrong, pytest.raises(ServiceError, match="certificate"):
        wrong.nodes()


def test_nothing_is_reported_home_and_no_proxy_is_used(config):
    before = {"HTTPS_PROXY": "http://proxy:1", "no_proxy": "x", "FLWR_OIDC_ENABLED": "1", "PATH": "/bin"}
    environment = quiet_environment(config, before)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert Path(environment["FLWR_HOME"]).is_relative_to(config.state)
    assert environment["PATH"] == "/bin"
    assert not {"HTTPS_PROXY", "no_proxy", "FLWR_OIDC_ENABLED"} & set(environment)


def test_superlink_listens_on_loopback_alone_and_knows_its_clinics(config):
    arguments = superlink_arguments(config)
    assert "--host=127.0.0.1" in arguments
    assert {"--enable-supernode-auth", "--isolation=process"} <= set(arguments)
    assert "--insecure" not in arguments
