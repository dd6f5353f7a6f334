"""The clinics' own models of a simulation whose algorithm has such: in a deployment they never leave the clinics."""

from pathlib import Path

from melfed.client.training.kept_state import KeptState
from melfed.client.training.local_round import LocalRound
from melfed.common.algorithms import algorithm_of
from melfed.common.model.classifier import Classifier
from melfed.common.study.build import local_start
from melfed.common.tensors import Tensors
from melfed.simulations.engine.partition_worker import Simulation


def personal_models(
    simulation: Simulation, model: Classifier, shared: Tensors, run: str, weights_dir: Path | None = None
) -> dict[str, Tensors]:
    """Return each clinic's own model after the last round, by the clinic's name; none where there is but the one.

    Args:
        simulation: study, clinics, and where they keep what they keep.
        model: the study's network.
        shared: the final global model.
        run: the run's identity.
        weights_dir: where pretrained weights are looked for.
    """
    study = simulation.study
    if study.federation.mode != "federated" or not algorithm_of(study.federation.algorithm).personal:
        return {}
    local = LocalRound(study, model, local_start(study, weights_dir))
    found = {}
    for clinic in simulation.clinics:
        kept = KeptState(simulation.states(clinic.name), study.digest).before(run, study.federation.rounds + 1)
        found[clinic.name] = local.judged(local.begun(shared, kept, trains=False))
    return found
