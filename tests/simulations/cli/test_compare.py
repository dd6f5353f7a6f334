"""The command `compare`: its table, its exit code, and one line where it cannot be."""

from pathlib import Path

import pytest

from melfed.simulations.cli import main as cli
from tests.simulations.comparison.inline import fail_at, run_inline
from tests.simulations.comparison.test_comparison import GRID


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("melfed.simulations.engine.fork_server.prepare", lambda: None)
    run_inline(monkeypatch)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["melfed-sim", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err

    return run


def test_a_comparison_prints_its_table_and_where_the_report_is(
    command, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at(monkeypatch, 1e-2)
    monkeypatch.setattr("melfed.simulations.comparison.comparison.write_pdf", lambda _out, _found: None)
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.replace("RATE", "1.0e-2"))
    code, out, err = command(grid, "--data", phantom, "--out", tmp_path / "out")
    assert code == 21
    assert "one seed; below a value its 95 % interval over patients" in " ".join(out.split())
    assert "By source. Within sources: of pairs of a melanoma" in " ".join(out.split())
    assert f"report: {tmp_path}/out/comparison.html" in out
    assert "failed" in out
    assert "2 cells to run" in err
    assert "1 of 2 cells have no result" in err
    assert err.count("a cable was pulled") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--resume",), 3, "name it with --out"),
        (("--most", "1"), 3, "2 cells, and 1 are allowed"),
        (("--set", "federation.rounds=0"), 3, "federation.rounds"),
        ((), 3, "needs images: add --data DIR"),
    ],
)
def test_wrong_input_is_one_line(command, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.replace("RATE", "1.0e-2"))
    found, out, err = command(grid, *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
