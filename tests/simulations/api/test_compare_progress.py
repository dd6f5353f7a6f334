"""What the progress of a comparison says: cells, failures, and the time that is left."""

import pytest

from melfed.simulations.api import compare_progress
from melfed.simulations.api.compare_progress import CompareProgress, Silent
from melfed.simulations.comparison.one_cell import Ran
from tests.simulations.comparison.made import cell


def test_a_line_a_cell_with_the_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(compare_progress, "monotonic", lambda: now[0])
    cells = [cell("simple_cnn", seed=seed) for seed in range(4)]
    with CompareProgress() as progress:
        progress.began(cells, 2)
        assert progress.left() == ""
        now[0] = 110.0
        progress.ended(cells[0], Ran(10.0))
        progress.progress({cells[1].name: 0.5})
        assert progress.left() == "about 16.7 s left"  # 10 s for one and a half of four
        progress.ended(cells[1], Ran(3.0, "out of memory"))
        progress.told("something")
    err = capsys.readouterr().err
    assert "4 cells to run, 2 had finished before" in err
    assert "cell 1 of 4: simple_cnn, pretrained false, seed 0: 10.0 s; about 30.0 s left" in err
    assert "cell 2 of 4: simple_cnn, pretrained false, seed 1: failed: out of memory" in err
    assert "something" in err


def test_a_quiet_one_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    watch, only = Silent(), cell("simple_cnn", seed=0)
    with watch.reading() as read:
        read(1, 2)
    watch.began([only], 0)
    watch.storing(1, 2)
    watch.progress({only.name: 0.5})
    watch.ended(only, Ran(3.0, "out of memory"))
    watch.told("something")
    assert capsys.readouterr() == ("", "")
