"""How the server, its clinics and its runs are, before anybody shows it."""

from pathlib import Path

from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.request import queue_run
from melfed.server.status import server_status
from tests.server.coordinator import make_kits


def test_a_run_whose_study_is_gone_is_damaged_and_one_that_is_mended_is_not(tmp_path: Path) -> None:
    config = make_kits(tmp_path / "kits", "a")
    study = queue_run(config.runs / "r", StudyProtocol(name="s"), ("a",), []).path / "study.yaml"
    content = study.read_bytes()
    study.unlink()
    (run,) = server_status(config).runs
    assert (run.status, "study.yaml" in run.reason) == ("damaged", True)
    study.write_bytes(content)
    (run,) = server_status(config).runs
    assert (run.status, run.study, run.rounds) == ("queued", "s", StudyProtocol().federation.rounds)
