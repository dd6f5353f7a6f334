"""A simulation on a Ray cluster of two nodes, of which one dies; in real processes on one machine."""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
import safetensors.numpy
from ray.cluster_utils import Cluster

from tests.e2e.place import SECONDS, SIM, SIX_CLINICS, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("nodes"), SIX_CLINICS)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two nodes with a core each; the driver's connection is to the first."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def answered(run: Path) -> list[tuple[int, dict[str, str]]]:
    rounds = json.loads((run / "summary.json").read_text())["rounds"]
    return [(len(row["answered"]), row["failed"]) for row in rounds]


def until(process: subprocess.Popen[str], look: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not look():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)  # files and titles of processes are no events that Python can wait for


def at_work(raylet: psutil.Process) -> bool:
    """Whether a clinic is being trained on a node."""
    titles = []
    for child in raylet.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            titles.append(" ".join(child.cmdline()))
    return any(title.startswith("ray::ClientAppActor.run") for title in titles)


@pytest.fixture(scope="module")
def alone(place: Place) -> Path:
    place.run(SIM, "run", place.study, "--out", place.folder / "alone")
    return place.folder / "alone"


def test_two_nodes_give_the_numbers_of_one_machine(place: Place, alone: Path, cluster: Cluster) -> None:
    place.run(SIM, "run", place.study, "--out", place.folder / "both", "--ray-address", cluster.address)
    one, two = (safetensors.numpy.load_file(run / "model.safetensors") for run in (alone, place.folder / "both"))
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    assert answered(place.folder / "both") == answered(alone) == [(6, {}), (6, {})]


def test_a_node_that_dies_costs_no_clinic_its_round(place: Place, cluster: Cluster) -> None:
    run = place.folder / "dies"
    process = place.start(SIM, "run", place.study, "--out", run, "--ray-address", cluster.address)
    (second,) = cluster.worker_nodes
    (raylet,) = (psutil.Process(each.process.pid) for each in second.all_processes["raylet"])
    until(process, (run / "checkpoints" / "round-000001.safetensors").exists)
    until(process, lambda: at_work(raylet))
    # All at once, as when a machine goes: without its raylet a worker would still finish what it has begun.
    for each in (raylet, *raylet.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    assert answered(run) == [(6, {}), (6, {})]
    assert "asked again" in err
    assert "Traceback" not in out + err
    assert "raylet" not in out + err
