"""Cells are run, as many as there are, whichever of them fail; who lacks weights is not run at all."""

from concurrent.futures import Future
from pathlib import Path

import pytest

from melfed.common.errors import StorageError
from melfed.simulations.comparison import running
from melfed.simulations.comparison.job import division_of
from melfed.simulations.comparison.one_cell import Ran
from melfed.simulations.comparison.running import FAILURE, Machine, finished, run_cells, slots, without_weights
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.simulations.comparison.inline import Recorder, fail_at, run_inline
from tests.simulations.comparison.made import cell
from tests.simulations.comparison.test_one_cell import a_cell


def test_all_cells_run_and_a_failing_one_ends_nothing(
    tmp_path: Path, phantom_clinics: VirtualClinics, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    fail_at(monkeypatch, 2e-3)
    cells = [a_cell(2e-3), a_cell(1e-3)]
    divided = {each.name: (division_of(each.study), phantom_clinics) for each in cells}
    watch = Recorder()
    ran, room = run_cells(cells, divided, tmp_path / "out", Machine(), watch)
    assert room == 1
    assert ran[cells[0].name].error == "a cable was pulled"
    assert ran[cells[1].name].error == ""
    assert [finished(tmp_path / "out", each) for each in cells] == [False, True]
    assert {each.name for each, _ in watch.of("ended")} == {each.name for each in cells}


def test_nothing_is_begun_for_no_cells(tmp_path: Path) -> None:
    assert run_cells([], {}, tmp_path, Machine(), Recorder()) == ({}, 0)


def test_cells_run_in_processes_of_their_own(tmp_path: Path, phantom_clinics: VirtualClinics) -> None:
    plain = a_cell(rounds=1)
    ran, room = run_cells([plain], {plain.name: ("d", phantom_clinics)}, tmp_path / "out", Machine(), Recorder())
    assert (ran[plain.name].error, room) == ("", 1)
    assert finished(tmp_path / "out", plain)


@pytest.mark.exhaustive
def test_a_federated_cell_has_its_clinics_in_a_process_of_its_own(
    tmp_path: Path, phantom_clinics: VirtualClinics
) -> None:
    made = a_cell(rounds=1)
    federated = type(made)("federated", "", {}, made.study.with_changes("federation", mode="federated"))
    ran, _ = run_cells([federated], {"federated": ("d", phantom_clinics)}, tmp_path / "out", Machine(), Recorder())
    assert ran["federated"].error == ""
    assert finished(tmp_path / "out", federated)


def test_who_lacks_weights_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELFED_OFFLINE", "1")
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path))
    monkeypatch.delenv("MELFED_WEIGHTS", raising=False)
    cells = [cell("vgg16", pretrained=True), cell("vgg16", pretrained=True, seed=1), cell("vgg16"), cell("simple_cnn")]
    found = without_weights(cells, None)
    assert list(found) == [cells[0].name, cells[1].name]
    assert all("vgg16" in reason for reason in found.values())


def test_a_fault_of_the_program_is_written_down(tmp_path: Path) -> None:
    future: Future[Ran] = Future()
    try:
        raise ZeroDivisionError("a fault")
    except ZeroDivisionError as error:
        future.set_exception(error)
    found = running._result(future, tmp_path, 3.0)
    assert found == Ran(3.0, "ZeroDivisionError: a fault")
    assert "Traceback" in (tmp_path / FAILURE).read_text()
    future = Future()
    future.set_result(Ran(1.0))
    assert running._result(future, tmp_path, 3.0) == Ran(1.0)


def test_a_prefix_that_cannot_be_stored_is_told(
    tmp_path: Path, phantom_clinics: VirtualClinics, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [a_cell(1e-3), a_cell(2e-3)]
    monkeypatch.setattr(running, "prefix_of", lambda _study, name: name)

    def full(_place: Path, _number: int) -> Ran:
        raise StorageError("the disk is full")

    monkeypatch.setattr(running, "store_prefix", full)
    calls = run_inline(monkeypatch)
    watch = Recorder()
    run_cells(cells, {each.name: ("d", phantom_clinics) for each in cells}, tmp_path / "out", Machine(), watch)
    assert [number for name, number in calls if name == "full"] == [0]
    assert "the disk is full" in watch.of("told")[0][0]


@pytest.mark.parametrize(("cpus", "cores", "room"), [(1.0, 2, 2), (0.5, 2, 4), (3.0, 8, 2), (16.0, 2, 1)])
def test_as_many_cells_at_a_time_as_the_cores_allow(cpus: float, cores: int, room: int) -> None:
    assert slots(cpus, cores) == room
