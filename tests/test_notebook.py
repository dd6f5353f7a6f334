"""The notebook of the documentation runs from top to bottom in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

SECONDS = 240


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(REPOSITORY / "docs" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "it is kept without outputs"
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source.splitlines()[-1]: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    told = "".join(output.get("text", "") for output in shown["run"])
    assert [line for line in told.splitlines() if line.startswith("round ")], "each round is a line, in this kernel"
    assert "all pooled" in shown["run"][-1]["data"]["text/html"]
    assert shown["run.curves()"][0]["data"]["image/png"]
    refused = shown['study.with_(federation={"round": 5})'][0]
    assert refused["ename"] == "StudyError"
    line = "StudyError: changed study: unknown key federation.round; did you mean federation.rounds?"
    assert refused["traceback"] == [line]
    assert 0 < float(shown["run.predict(picture).probability"][0]["data"]["text/plain"]) < 1
    assert len(list((tmp_path / "runs").glob("notebook-*/report.html"))) == 2
