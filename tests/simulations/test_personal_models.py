"""The clinics' own models; a run's are looked at in test_algorithms.py."""

from pathlib import Path

import numpy as np
import pytest

from melfed.client.training.kept_state import KeptState
from melfed.common.study.build import build_study_classifier, shared_tensors
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.personal_models import personal_models
from tests.client.small import small_study


@pytest.mark.parametrize("algorithm", ["fedavg", "ditto"])
def test_a_clinic_has_what_it_kept_last_and_else_the_model_of_all(
    algorithm: str, phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    study = small_study(federation={"algorithm": algorithm, "rounds": 2})
    simulation = Simulation(study, phantom_clinics.clinics, tmp_path / "ledgers")
    model = build_study_classifier(study)
    shared = shared_tensors(study, model)
    first, *others = (clinic.name for clinic in simulation.clinics)
    own = {name: tensor + np.float32(1) for name, tensor in shared.items()}
    KeptState(simulation.states(first), study.digest).keep("run", 2, own)
    found = personal_models(simulation, model, shared, "run")
    assert found.keys() == (set() if algorithm == "fedavg" else {first, *others})
    for name, tensors in found.items():
        assert all((tensors[n] == (own if name == first else shared)[n]).all() for n in shared)
