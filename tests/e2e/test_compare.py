"""A comparison that is killed in the middle, in real processes: nothing is left behind, and --resume finishes it."""

import csv
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.place import SECONDS, SIM, Place
from tests.e2e.test_simulation_failures import of_run

GRID = """\
name: killed
study:
  data: {image_size: 32, phantom: {images: 240, clinics: 2, melanoma_rate: 0.4}}
  partition: {minimum_images: 4}
  model: {backbone: simple_cnn, pretrained: false}
  training: {batch_size: 2, local_epochs: 15, warmup_steps: 0, learning_rate: 1e-3}
  federation: {rounds: 2}
vary:
  federation.mode: [central, federated]
  training.seed: [0, 1]
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, GRID)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="m") as short:
        place.environment["TMPDIR"] = short
        yield place


def test_a_killed_comparison_leaves_nothing_and_goes_on(place: Place) -> None:
    out = place.folder / "out"
    process = place.start(SIM, "compare", place.study, "--out", out)

    def between() -> bool:
        done = len(list(out.glob("cells/*/summary.json")))
        return 0 < done < 4 and len(list(out.glob("cells/*/study.yaml"))) > done

    deadline = time.monotonic() + SECONDS
    while not between():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()  # the command alone: its processes have to end by themselves
    process.communicate(timeout=SECONDS)
    while left := of_run(place):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    finished = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("cells/*/summary.json")}
    assert 0 < len(finished) < 4
    code, _, err = place.answer(SIM, "compare", place.study, "--out", out, "--resume")
    assert code == 0, err
    assert f"{4 - len(finished)} cell" in err
    assert f"{len(finished)} had finished before" in err
    now = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("cells/*/summary.json")}
    assert {name: now[name] for name in finished} == finished, "what had finished is not run again"
    with (out / "results.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == 4 * ["finished"]
    assert of_run(place) == []
