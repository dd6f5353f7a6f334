"""The coordinator's configuration: paths below its folder, and errors that name file, line and key."""

from pathlib import Path

import pytest

from melfed.common.errors import ServerConfigError
from melfed.server.config import ServerConfig, read_server


def read(folder: Path, text: str) -> ServerConfig:
    path = folder / "server.yaml"
    path.write_text(text)
    return read_server(path)


def test_paths_start_at_the_files_folder_and_may_be_absolute(tmp_path: Path) -> None:
    config = read(tmp_path, "state: var/state\nruns: /srv/runs\nsuperlink_port: 7001\n")
    assert (config.folder, config.state, config.runs) == (tmp_path, tmp_path / "var/state", Path("/srv/runs"))
    below = (config.audit_log, config.clinics_said, config.daemon_state, config.daemon_lock, config.logs)
    assert {path.parent for path in below} == {config.state}
    kit = (config.ca_certificate, config.certificate, config.certificate_key, config.superexec_secret, config.bundle)
    assert {path.parent for path in (*kit, config.clinics)} == {tmp_path}
    assert len({*below, *kit}) == len(below) + len(kit)
    assert config.superlink == "127.0.0.1:7001"


def test_a_folder_of_weights_is_named_where_there_is_one(tmp_path: Path) -> None:
    config = read(tmp_path, "name: test\n")
    assert config.weights_folder is None
    config.weights.mkdir()
    assert config.weights_folder == tmp_path / "weights"


def test_a_relative_path_of_the_file_itself_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(tmp_path, "name: test\n")
    monkeypatch.chdir(tmp_path)
    assert read_server(Path("server.yaml")).path == tmp_path / "server.yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edge:\n  port: 0\n", "server.yaml:2: edge.port: input should be greater than or equal to 1, not 0"),
        ("edge:\n  prot: 1\n", "server.yaml:2: unknown key edge.prot; did you mean edge.port?"),
        ("health_port: 70000\n", "server.yaml:1: health_port: "),
        ("name: ../x\n", "server.yaml:1: name: string should match pattern"),
        ("state: ''\n", "server.yaml:1: state: "),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ServerConfigError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path}/{message}")
