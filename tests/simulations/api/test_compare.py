"""A comparison from Python: what the command does, and nothing on stderr where that is asked for."""

from pathlib import Path

import pytest

from melfed.common.errors import StudyError
from melfed.simulations import compare
from melfed.simulations.api.compare import folder_of
from tests.simulations.comparison.inline import run_inline
from tests.simulations.comparison.test_comparison import GRID


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("melfed.simulations.engine.fork_server.prepare", lambda: None)
    monkeypatch.setattr("melfed.simulations.comparison.comparison.write_pdf", lambda _out, _found: None)
    run_inline(monkeypatch)
    path = tmp_path / "grid.yaml"
    path.write_text(GRID.replace("RATE", "1.0e-2"))
    return path


def test_a_comparison_finds_what_its_cells_give(
    grid: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(grid, phantom, out=tmp_path / "out", quiet=True)
    assert len(found.results) == 2
    assert not found.failed
    assert (tmp_path / "out" / "comparison.html").is_file()
    assert capsys.readouterr().err == ""


def test_what_cannot_be_is_one_line(grid: Path) -> None:
    with pytest.raises(StudyError, match="name its folder"):
        compare(grid, resume=True)
    with pytest.raises(StudyError, match="2 cells, and 1 are allowed"):
        compare(grid, most=1)


def test_a_comparison_without_a_folder_gets_one_of_its_name() -> None:
    assert folder_of(Path("somewhere/grid.yaml")).as_posix().startswith("comparisons/grid-")
