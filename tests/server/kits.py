"""A small consortium for tests: its file, and the paths of its kits."""

import socket
from pathlib import Path

import yaml

from melfed.common.yaml_file import Dumper


def free_port() -> int:
    """A TCP port on loopback that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def consortium_file(folder: Path, *clinics: str, **changes: object) -> Path:
    """Write a consortium file for these clinics; `changes` replace its sections."""
    path = folder / "consortium.yaml"
    server = {"names": ["edge.example.org", "192.0.2.7"], "address": "127.0.0.1"}
    content = {"name": "test", "server": server, "clinics": [{"name": name} for name in clinics], **changes}
    path.write_text(yaml.dump(content, Dumper=Dumper))
    return path


def content(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Bytes, mode and time of change of every file."""
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
