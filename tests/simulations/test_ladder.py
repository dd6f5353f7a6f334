"""Other ways to a model are runs of their own, and the report shows them with what each costs."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.server.runs.folder import RunFolder
from melfed.simulations import run as run_module
from melfed.simulations.ladder import KEPT, MEASURED, measure, way
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import simulate
from tests.common.runs import finished_run, public_model
from tests.in_process import SilentObserver, federate
from tests.simulations.test_one_round import NECK, started, study_of


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("public") / "run", public_model(neck=NECK))


def test_each_way_has_the_same_clinics_start_and_strength(public: Path) -> None:
    for study in (study_of(public), started(public, rounds=3)):
        once, rounds, bare = (way(study, name) for name in MEASURED)
        assert (once.federation.mode, rounds.federation.mode, bare.federation.mode) == (
            "one_round",
            "federated",
            "federated",
        )
        for other in (once, rounds, bare):
            assert other.model.weights == study.model.weights
            assert other.partition == study.partition
            assert other.data == study.data
            assert other.seed == study.seed
        for other in (once, rounds):
            assert all(getattr(other.privacy, key) == getattr(study.privacy, key) for key in KEPT["privacy"])
        assert bare.privacy is not None
        assert (bare.privacy.noise_multiplier, bare.privacy.epsilon) == (0.0, None)
        # The rounds without privacy are the rounds with it.
        assert bare.federation == rounds.federation
        assert bare.training == rounds.training
    assert way(started(public, rounds=3), "rounds").federation.rounds == 3
    assert way(study_of(public), "rounds").federation.rounds > 3


def test_a_run_and_the_other_ways_stand_in_one_report(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    simulate(started(public, rounds=1), phantom_clinics, tmp_path / "run", SilentObserver())
    folder = RunFolder.open(tmp_path / "run")
    assert [rung.name for rung in folder.ladder()] == ["public", "one_round"]
    page = folder.report.read_text()
    assert page.count("not measured") == 1
    assert "(this run)" in page
    found = measure(folder, phantom_clinics, ["one_round", "rounds", "no_privacy"], SilentObserver())
    assert [rung.name for rung in found] == ["no_privacy", "one_round", "public"], "rounds are the run itself"
    assert folder.ladder() == tuple(found)
    costs = {rung.name: (rung.epsilon, rung.messages) for rung in found}
    assert costs["no_privacy"] == (None, 3)
    assert costs["public"] == (0.0, 1)
    assert costs["one_round"][1] == 2
    # All of ε is one round's by now, not the part that the start had.
    once = RunFolder.open(folder.path / "ladder" / "one_round").summary()
    assert once.privacy is not None
    assert costs["one_round"][0] == once.privacy.epsilon_spent
    assert "not measured" not in folder.report.read_text()
    again = measure(folder, phantom_clinics, ["one_round"], SilentObserver())
    assert again == found, "what is measured is measured once"


def test_a_run_without_privacy_has_no_ladder(
    phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.simulations.test_predictions import study_of as plain

    monkeypatch.setattr(run_module, "federate", federate)
    simulate(plain("federated"), phantom_clinics, tmp_path / "run", SilentObserver())
    with pytest.raises(RunError, match="has no ladder"):
        measure(RunFolder.open(tmp_path / "run"), phantom_clinics, ["rounds"], SilentObserver())
