"""Names of deployed runs: folders directly below the folder of runs, and nothing else."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.config import ServerConfig, read_server
from melfed.server.runs.names import NAME, run_path


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    (tmp_path / "server.yaml").write_text("name: test\n")
    found = read_server(tmp_path / "server.yaml")
    (found.runs / "r" / "checkpoints").mkdir(parents=True)
    return found


def test_a_run_is_found_by_its_name(config: ServerConfig) -> None:
    assert run_path(config, "r") == config.runs / "r"


@pytest.mark.parametrize("name", ["", ".", "..", "../r", "/etc", "r/checkpoints", "none", "r\n", "-r", "a" * 129])
def test_a_name_leads_nowhere_else(config: ServerConfig, name: str) -> None:
    with pytest.raises(RunError, match=r"no run is called .*; see melfed-server status"):
        run_path(config, name)


def test_neither_a_link_nor_a_file_is_a_run(config: ServerConfig) -> None:
    (config.runs / "link").symlink_to(config.runs / "r")
    (config.runs / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(RunError, match=f"no run is called '{name}'"):
            run_path(config, name)


@pytest.mark.parametrize("name", ["r", "ham10000-2.1_b", "0", "a" * 128])
def test_names_that_can_be_chosen(name: str) -> None:
    assert NAME.fullmatch(name)
