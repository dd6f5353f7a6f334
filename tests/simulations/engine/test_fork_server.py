"""The process that workers are copies of: what it has loaded, and that nothing random is copied."""

import itertools
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from melfed.client.privacy.plan import privacy_of
from melfed.client.training.private import PrivateTrainer
from melfed.client.worker.worker import shared_classifier
from melfed.common.model.classifier import trainable_tensors
from melfed.common.model.dropout import seed_dropout
from melfed.common.study.build import build_study_classifier
from melfed.simulations.engine import fork_server, local_worker
from melfed.simulations.engine.fork_server import prepare
from melfed.simulations.engine.partition_worker import Simulation, lay_out, worker_of
from melfed.simulations.engine.workspace import VARIABLE
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.simulations.engine.test_local_engine import study_of

SECONDS = 120.0
PRIVACY = {"unit": "patient", "epsilon": 8.0, "delta": 1e-3, "patients": 10, "steps": 2, "sampling_rate": 0.5}


def dropout_seed(device: torch.device) -> int:
    seed_dropout(device, None)
    return torch.initial_seed()


def draws(workspace: Path, partition: int) -> dict[str, object]:
    """The first numbers of everything random that a clinic's private training draws from."""
    worker = worker_of(workspace, partition)
    model = shared_classifier(worker.study, None, worker.device)
    trainer = PrivateTrainer(model, worker.study, privacy_of(worker.study), worker.device)
    inputs = worker._pixels(model)
    return {
        "noise": trainer.noise.gaussian((2,), 1.0).tobytes(),
        "draws": trainer.random.bytes(16),
        "views": inputs.generator.initial_seed(),  # type: ignore[attr-defined]
        "dropout": dropout_seed(worker.device),
    }


def test_no_two_clinics_draw_the_same_numbers(phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    study = study_of(training={"augment": True, "batch_size": 8}, privacy=PRIVACY)
    lay_out(Simulation(study, phantom_clinics.clinics, tmp_path / "ledgers"), tmp_path)
    # Each is a new copy of the prepared process; the same clinic in two of them must draw anew as well.
    found: list[dict[str, object]] = []
    for _ in range(2):
        with ProcessPoolExecutor(1, prepare(), local_worker.begin, (tmp_path,)) as process:
            clinics = range(len(phantom_clinics.clinics))
            found += [process.submit(draws, tmp_path, clinic).result(SECONDS) for clinic in clinics]
    assert found[0].keys() == {"noise", "draws", "views", "dropout"}
    for one, other in itertools.combinations(found, 2):
        assert not {kind for kind in one if one[kind] == other[kind]}


def after_training(workspace: Path, partition: int) -> int:
    """What torch's own generator was seeded with for a clinic's training without privacy."""
    worker = worker_of(workspace, partition)
    worker.train(trainable_tensors(build_study_classifier(worker.study)), 1, worker.study.digest, "run")
    return torch.initial_seed()


def test_each_clinic_trains_with_generators_of_its_own_in_whichever_process(
    phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    lay_out(Simulation(study_of(), phantom_clinics.clinics, tmp_path / "ledgers"), tmp_path)
    seeds = []
    for _ in range(2):
        with ProcessPoolExecutor(1, prepare(), local_worker.begin, (tmp_path,)) as process:
            clinics = range(len(phantom_clinics.clinics))
            seeds.append([process.submit(after_training, tmp_path, clinic).result(SECONDS) for clinic in clinics])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == len(phantom_clinics.clinics)


def loaded() -> set[str]:
    """What a worker has loaded before it does anything."""
    return {name for name in ("melfed.simulations.engine.local_worker", "torch._dynamo") if name in sys.modules}


def test_workers_find_everything_loaded() -> None:
    with ProcessPoolExecutor(1, prepare()) as process:
        assert process.submit(loaded).result(SECONDS) == {"melfed.simulations.engine.local_worker", "torch._dynamo"}


def test_the_process_begins_in_an_environment_of_its_own_and_nothing_of_it_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, str | None]] = []
    names = ("PYTHONPATH", "PYTHONSAFEPATH", "OMP_NUM_THREADS", "TORCHINDUCTOR_CACHE_DIR", VARIABLE)

    def begins() -> None:
        seen.append({name: os.environ.get(name) for name in names} | {"temporary": tempfile.gettempdir()})

    monkeypatch.setattr(fork_server.forkserver, "ensure_running", begins)
    monkeypatch.setenv("PYTHONPATH", "/before")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setattr(sys, "path", ["", "/one"])
    before, temporary = dict(os.environ), tempfile.gettempdir()
    assert prepare().get_start_method() == "forkserver"
    (found,) = seen
    folder = found["temporary"]
    assert folder is not None
    assert Path(folder).is_dir()
    assert found == {
        "PYTHONPATH": f"/one{os.pathsep}/before",
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/torch",
        VARIABLE: folder,
        "temporary": folder,
    }
    assert (dict(os.environ), tempfile.gettempdir()) == (before, temporary)
    prepare()
    assert seen == [found, found], "one folder a process, however often it is prepared"


def test_nothing_stays_of_it_where_it_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(fork_server.forkserver, "ensure_running", refuse)
    before, temporary = dict(os.environ), tempfile.gettempdir()
    with pytest.raises(OSError, match="no more processes"):
        prepare()
    assert (dict(os.environ), tempfile.gettempdir()) == (before, temporary)


SCRIPT = """
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from melfed.simulations.engine.fork_server import prepare

print("run", os.getpid(), flush=True)
with ProcessPoolExecutor(1, prepare()) as process:
    print("worker", process.submit(os.getpid).result(100), flush=True)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_a_script_needs_no_guard_since_no_worker_runs_it_again(tmp_path: Path, as_module: bool) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    how = ["-m", "script"] if as_module else ["script.py"]
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *how], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["run", "worker"]
