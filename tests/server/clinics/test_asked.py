"""A study that clinics are asked about without a run of it."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import StudyProtocol
from melfed.server.clinics.asked import ASKED, asked_study, write_asked
from melfed.server.config import ServerConfig, read_server
from melfed.server.runs.names import NAME


@pytest.fixture
def config(tmp_path: Path) -> ServerConfig:
    (tmp_path / "server.yaml").write_text("name: test\n")
    return read_server(tmp_path / "server.yaml")


def test_it_is_read_as_it_was_written_under_a_name_that_no_run_has(config: ServerConfig) -> None:
    study = StudyProtocol(name="asked")
    name = write_asked(config, study)
    assert asked_study(config, name).digest == study.digest
    assert NAME.fullmatch(name) is None


@pytest.mark.parametrize("name", [ASKED, f"{ASKED}{'0' * 64}", f"{ASKED}../../server"])
def test_a_name_that_means_none_is_refused(config: ServerConfig, name: str) -> None:
    with pytest.raises(RunError, match="is asked about"):
        asked_study(config, name)
