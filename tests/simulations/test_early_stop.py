"""Studies that stop early, by the front door: the model of the best round, what is told, and what is charged."""

import json
from pathlib import Path

import pytest

from melfed.client.approval.run_budget import whole_run
from melfed.client.ledger.ledger import verify
from melfed.client.ledger.rows import charges
from melfed.client.privacy.plan import plan_of
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.server.runs.checkpoints import last_checkpoint
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RunSummary
from melfed.simulations import run as run_module
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from melfed.simulations.run import simulate
from tests.in_process import SilentObserver, federate
from tests.simulations.test_run import Interrupted, InterruptedAfter

ROUNDS = 12
PURPOSES = ("counts", "training", "evaluation")
MODES = ["federated", "central", "local"]


def study_of(mode: str = "federated", **sections: object) -> StudyProtocol:
    content = {
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "training": {"batch_size": 16, "augment": False, "learning_rate": 0.01},
        "federation": {"mode": mode, "rounds": ROUNDS, "stop": {"patience": 2}},
    }
    return StudyProtocol.model_validate_json(json.dumps(content | sections))


@pytest.fixture
def virtual(phantom: Path, tmp_path: Path) -> VirtualClinics:
    return divide(study_of(), phantom, tmp_path / "cache")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "federate", federate)


def aurocs(summary: RunSummary) -> dict[int, float]:
    found = {row.round: row.validation.auroc.value for row in summary.rounds if row.validation is not None}
    return {number: value for number, value in found.items() if value is not None}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_ends_with_its_best_round_and_says_so_and_a_kill_changes_nothing(
    mode: str, virtual: VirtualClinics, tmp_path: Path
) -> None:
    study = study_of(mode)
    whole = simulate(study, virtual, tmp_path / "whole", SilentObserver())
    assert whole.stop is not None
    assert (whole.stop.metric, whole.stop.patience, whole.stop.planned) == ("auroc", 2, ROUNDS)
    assert len(whole.rounds) == max(model.trained for model in whole.stop.models)
    assert min(model.trained for model in whole.stop.models) < ROUNDS
    if mode == "local":
        assert {model.clinic for model in whole.stop.models} == {clinic.name for clinic in virtual.clinics}
        assert len({model.trained for model in whole.stop.models}) > 1, "each clinic ends by itself"
    else:
        (model,) = whole.stop.models
        values = aurocs(whole)
        assert values[model.round] == max(values.values()) == model.value
        assert max(values) - model.round == 2
        # Whoever is asked for the next round says how the one before did.
        assert model.trained == max(values) + (mode == "federated")
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "Early stopping" in report
    assert f"the model of round {whole.stop.models[0].round} (validation AUROC" in report
    last = whole.stop.models[0].trained
    for number in (last,) if mode == "local" else (1, last):
        path = tmp_path / f"cut-{number}"
        with pytest.raises(Interrupted):
            simulate(study, virtual, path, InterruptedAfter(number))
        again = simulate(study, virtual, path, SilentObserver(), resume=True)
        assert (again.stop, again.test, again.steps) == (whole.stop, whole.test, whole.steps)
        assert [row.validation for row in again.rounds] == [row.validation for row in whole.rounds]
        for one in (tmp_path / "whole").glob("model*.safetensors"):
            tensors, others = load_tensors(one)[0], load_tensors(path / one.name)[0]
            assert all((tensors[name] == others[name]).all() for name in tensors)


@pytest.mark.parametrize("mode", ["federated", "central"])
def test_the_saved_model_is_the_best_one_of_the_checkpoint(mode: str, virtual: VirtualClinics, tmp_path: Path) -> None:
    study = study_of(mode)
    simulate(study, virtual, tmp_path / "run", SilentObserver())
    state = last_checkpoint(tmp_path / "run" / "checkpoints", study.digest)
    saved = load_tensors(tmp_path / "run" / "model.safetensors")[0]
    assert state is not None
    assert state.best
    differs = False
    for name, tensor in state.best.items():
        assert (saved[name.removeprefix("/")] == tensor).all()
        differs |= bool((tensor != state.model[name]).any()) or mode == "central"
    assert differs


def test_a_stopped_run_is_as_good_as_a_longer_one(virtual: VirtualClinics, tmp_path: Path) -> None:
    study = study_of("central")
    first = simulate(study, virtual, tmp_path / "run", SilentObserver())
    longer = study.with_changes("federation", rounds=ROUNDS + 5)
    more = simulate(longer, virtual, tmp_path / "run", SilentObserver(), resume=True)
    assert more.stop is not None
    assert first.stop is not None
    assert more.stop.models == first.stop.models
    assert more.test == first.test


def test_a_private_run_is_charged_for_the_rounds_that_ran(virtual: VirtualClinics, tmp_path: Path) -> None:
    """The guarantee is that of all planned rounds; what was not trained is in no ledger."""
    privacy = {"unit": "image", "recipe": "manual", "steps": 1, "noise_multiplier": 0.0}
    training = {"optimizer": "sgd", "learning_rate": 0.5, "warmup_steps": 0, "augment": False}
    study = study_of(privacy=privacy, training=training)
    study = study.with_changes("federation", stop={"metric": "auroc", "patience": 1})
    summary = simulate(study, virtual, tmp_path / "run", SilentObserver())
    assert summary.stop is not None
    assert summary.privacy is not None
    (model,) = summary.stop.models
    assert 2 < model.trained < ROUNDS
    for ledger in sorted(RunFolder.open(tmp_path / "run").ledgers.glob("*.jsonl")):
        rows = charges(verify(ledger).rows)
        charged = {purpose: [row["round"] for row in rows if row["purpose"] == purpose] for purpose in PURPOSES}
        # The validations of all rounds but the last one's, and the evaluation in the end.
        trained = list(range(1, model.trained + 1))
        assert charged == {"counts": [0], "training": trained, "evaluation": [*trained[:-1], ROUNDS]}
    assert whole_run(plan_of(study))[-1].times == ROUNDS + 1, "what a clinic plans for is the most that can come"
    assert summary.privacy.steps == model.trained
    report = (tmp_path / "run" / "report.html").read_text()
    assert "What the study guarantees is its ε for all planned rounds" in report
