"""The models that a private study's training begins at, judged on the clinics' test images: rungs of its ladder.

A simulation has the images, and needs no answer of a clinic for it: its histograms are exact.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from melfed.client.data.clinic_data import ClinicData
from melfed.client.privacy.accounting import epsilon
from melfed.client.privacy.plan import plan_of
from melfed.client.training.feature_cache import FeatureCache
from melfed.common.metrics.exact import histogram_metrics
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import Interval
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.model.inference import score
from melfed.common.model.weights import run_metadata
from melfed.common.study.build import build_study_classifier, study_weights
from melfed.common.study.protocol import StudyProtocol
from melfed.server.results.solved import read_solution, solve_run
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.releases import Releases
from melfed.server.runs.summary import Rung


def of_starts(
    folder: RunFolder, study: StudyProtocol, clinics: Sequence[ClinicData], weights_dir: Path | None = None
) -> list[Rung]:
    """Return what is known of the models that a private study's training began at, on the clinics' test images.

    Args:
        folder: of the run, with its releases where it asked for some.
        study: that was run.
        clinics: whose test parts.
        weights_dir: where the public run is looked for.

    Raises:
        WeightsError, StorageError: the public run is gone; features cannot be stored.
    """
    if study.privacy is None or not study.model.pretrained or run_metadata(study_weights(study, weights_dir)) is None:
        return []
    model, rungs = build_study_classifier(study, weights_dir), list[Rung]()
    if trainable_tensors(model)["head.weight"].any():
        rungs.append(Rung(name="public", auroc=_auroc(model, study, clinics), epsilon=0.0, messages=1))
    if study.federation.asks_for_moments and study.federation.mode != "one_round":
        releases, plan = Releases(folder.releases, study.digest).kept(), plan_of(study)
        solution = solve_run(study, releases, public=read_solution(folder).public)
        load_trainable(model, {**trainable_tensors(model), **solution.tensors()})
        spent = epsilon([part for part in (plan.moments, plan.counts) if part is not None], study.privacy.delta)
        known = spent if np.isfinite(spent) else None
        rungs.append(Rung(name="one_round", auroc=_auroc(model, study, clinics), epsilon=known, messages=2))
    return rungs


def _auroc(model: Classifier, study: StudyProtocol, clinics: Sequence[ClinicData]) -> Interval:
    """Return the AUROC of a model on the test parts of clinics, all of them pooled."""
    histogram = ScoreHistogram.empty()
    for clinic in clinics:
        images = clinic.load("test")
        if len(images):
            histogram += ScoreHistogram.from_scores(_scores(model, study, clinic), images.targets, images.groups)
    return histogram_metrics(histogram).auroc


def _scores(model: Classifier, study: StudyProtocol, clinic: ClinicData) -> npt.NDArray[np.float64]:
    """Return logits of a clinic's test images, from stored features where it has them."""
    images, device = clinic.load("test"), torch.device("cpu")
    stored = None
    if study.model.train == "head":
        cache = FeatureCache(clinic.cache / "features")
        stored = cache.features(model, images, study.data.image_size, device)
    if stored is None:
        return score(model, images, study.data.image_size, device)
    metadata = torch.from_numpy(images.metadata) if study.model.metadata else None
    with torch.inference_mode():
        return model.eval().logits(torch.from_numpy(stored[:, 0].copy()), metadata).numpy()
