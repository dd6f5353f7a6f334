"""`melfed-sim run` from the folder to the report, on each layout: one private round, its clinics in this process."""

import json
from pathlib import Path

import pytest

from melfed.simulations import run as run_module
from melfed.simulations.cli import main as cli
from tests.in_process import federate
from tests.simulations.layouts import LAYOUTS, command


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_round_on_each_layout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS[name]
    monkeypatch.setattr(run_module, "federate", federate)
    monkeypatch.setattr("sys.argv", ["melfed-sim", *command(layout, tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    data, (round_one,) = summary["data"], summary["rounds"]
    assert (data["layout"], data["images"], data["melanomas"]) == (layout.read_as, layout.images, layout.melanomas)
    assert data["left_out"] == []
    assert summary["privacy"]["unit"] == layout.unit
    assert data["groups"] == layout.units
    assert len(round_one["answered"]) == 2
    assert not round_one["failed"]
    assert 0 < summary["privacy"]["epsilon_spent"] <= 8
    parts = json.loads((tmp_path / "run/partition.json").read_text())
    named = [image for clinic in parts.values() for images in clinic.values() for image in images]
    assert len(named) == len(set(named)) == layout.images
    assert (tmp_path / "run/report.html").exists()
