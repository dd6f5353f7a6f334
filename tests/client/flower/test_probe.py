"""Asking SuperLink whether it knows a key."""

import json
import subprocess
import sys
from pathlib import Path

from melfed.client.doctor.network import NetworkDoctor
from tests.client.doctors import (
    NODE_KEY,
    Kit,
    closed_port,
    record_of,
    server_kit,
)


def test_the_probe_tells_what_kind_of_error_it_met(kit: Kit) -> None:
    """With the program itself: it loads Flower, signs, and finds nobody there."""
    config = kit(closed_port())
    files = (config.ca_certificate, config.certificate, config.certificate_key, config.node_key)
    command = [sys.executable, "-m", "melfed.client.flower.probe", "127.0.0.1", str(config.file.coordinator.port)]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == {"error": "ConnectError"}
    assert str(config.folder) not in done.stdout


def test_superlink_itself_is_asked_and_nothing_changes(kit: Kit, tmp_path: Path) -> None:
    """With Flower's own SuperLink: unknown key, registered key, key that was shut out; and no node comes online."""
    from tests.server.flower_stack import superlink

    server = server_kit(tmp_path / "server")
    config = kit(server.file.superlink_port)
    record = record_of("north", NODE_KEY)
    doctor = NetworkDoctor(config)
    with superlink(server) as control:
        assert "does not know" in doctor.key().detail
        node = control.register(record)
        before = control.nodes()
        assert doctor.key().status == "ok"
        assert control.nodes() == before
        assert not before[0].online
        control.unregister(node)
        assert "does not know" in doctor.key().detail
