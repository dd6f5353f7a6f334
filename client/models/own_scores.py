"""How a model that the clinic keeps scores its own images, as one histogram: what a threshold of its own follows from.

Of a private study it has the noise that the study's own releases have, and is charged to the ledger as one of them,
once, so that what the clinic tells others of it costs nothing further. It is kept beside the model; whatever is asked
of it later is post-processing. It is charged to the model's study and run, within the ε of all the clinic's data
(`policy.epsilon`): nobody but the clinic asks, so its approval of the study bounds nothing here, though it counts
against a later run of it. Of a study whose evaluation is public, or without privacy, it is exact and free.
"""

import json
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.policy import budget
from melfed.client.data.clinic_data import fingerprint
from melfed.client.data.loading import clinic_data
from melfed.client.data.split import Part
from melfed.client.ledger.key import ledger_key
from melfed.client.ledger.ledger import Charge, Ledger
from melfed.client.ledger.witness import Witness
from melfed.client.models.store import KeptModel, load
from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import Scores, noised_histograms
from melfed.client.privacy.plan import plan_of
from melfed.client.privacy.units import privacy_units
from melfed.common.audit.log import AuditLog
from melfed.common.errors import DataError, RunError
from melfed.common.files import write_text
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import Histogram, histogram_from_lists
from melfed.common.metrics.score_edges import score_edges
from melfed.common.model.inference import pick_device, score

PARTS: tuple[Part, ...] = ("validation", "test")
"""Of the clinic's images, those that the model has not learnt from."""


def own_scores(config: ClinicConfig, model: KeptModel) -> tuple[Histogram, float | None]:
    """Return the histogram, and the total ε of the ledger at the study's δ where this call was charged.

    Raises:
        BudgetError: too little is left of the clinic's ε; nothing is computed then.
        DataError: the clinic's data cannot be used, or there is no image in these parts.
        LedgerError: the ledger is damaged, of other data, or in use by a worker that is spending.
        RunError: the model, or what was kept beside it, is damaged.
        StorageError: it cannot be kept.
    """
    study = model.study
    if study.privacy is None or study.privacy.evaluation == "public":
        scores, _ = _scores(config, model)
        return ScoreHistogram.from_scores(*scores), None
    if (kept := kept_scores(model)).exists():
        return _read(kept), None
    plan = plan_of(study)
    assert plan.evaluation is not None  # noqa: S101 (its evaluation is noised)
    audit = AuditLog(config.audit_log, "cli")
    data = clinic_data(config, study)
    mark = fingerprint(data, ledger_key(config.ledger))
    number = study.federation.rounds + 2  # of no request of the coordinator's
    run, privacy = model.facts.run, plan.privacy
    charge = Charge(study.digest, run, number, "evaluation", privacy.unit, plan.evaluation, privacy.delta)
    with Ledger.open(config.ledger, mark, witness=Witness(config.ledger, audit)) as ledger:
        reservation = ledger.reserve(charge, budget(config.policy, study))
        scores, edges = _scores(config, model)
        noised = noised_histograms({"test": scores}, plan.evaluation.noise_multiplier, NoiseSource(), edges)["test"]
        ledger.mark(reservation, "spent")
        # Whatever becomes of this process now, nobody gets another one for the same price.
        ledger.mark(reservation, "released")
        write_text(kept, json.dumps(noised.to_lists()) + "\n")
        return noised, ledger.epsilon(privacy.delta)


def kept_scores(model: KeptModel) -> Path:
    """Return where a model's noised histogram is kept."""
    return model.path.with_suffix(".scores.json")  # `ModelStore.remove` deletes it too


def _scores(config: ClinicConfig, model: KeptModel) -> tuple[Scores, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Return logits, targets and units of the images of both parts, and the edges of bins that the model gives."""
    study = model.study
    data, network, device = clinic_data(config, study), load(model), pick_device()
    edges = score_edges({name: value.numpy() for name, value in network.state_dict().items()}, study.model.neck)
    logits, targets, units = [], [], []
    for part in PARTS:
        images = data.load(part)
        if len(images):
            found = score(network.to(device), images, model.facts.image_size, device)
            logits.append(np.nan_to_num(np.asarray(found, np.float64), nan=0.0))
            targets.append(images.targets)
            noised = study.privacy is not None and study.privacy.evaluation == "noised"
            unit = study.privacy.unit if study.privacy and noised else None
            units += privacy_units(images.records, unit) if unit else list(images.groups)
    if not logits and study.privacy is None:
        raise DataError(f"{config.data_folder}: no image is in the validation or test part of {model.facts.name}")
    if not logits:
        return (np.zeros(0), np.zeros(0), []), edges
    return (np.concatenate(logits), np.concatenate(targets), units), edges


def _read(path: Path) -> Histogram:
    try:
        return histogram_from_lists(json.loads(path.read_bytes()))
    except (OSError, ValueError, AttributeError, DataError, ValidationError):
        raise RunError(f"{path}: damaged; remove it, and ask again (which is charged again)") from None
