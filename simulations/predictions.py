"""`predictions.parquet`: the score of every test image of a simulation, where all images are the researcher's own.

A deployment has no such table, and nothing to make it of: clinics send histograms. This module is of `simulations`,
which neither `server` nor `client` can import.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars
import torch

from melfed.client.data.clinic_data import ClinicData
from melfed.client.training.feature_cache import FeatureCache
from melfed.client.training.inputs import PixelInputs, scores_of, stored_inputs
from melfed.common.files import atomic_write
from melfed.common.metrics.histogram import sigmoid
from melfed.common.model.classifier import Classifier, load_trainable
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors

NAME = "predictions.parquet"


def write_predictions(
    path: Path,
    study: StudyProtocol,
    clinics: Sequence[ClinicData],
    model: Classifier,
    models: Mapping[str, Tensors],
    device: torch.device,
) -> None:
    """Write a row an image of the clinics' test parts: image, clinic, group, target, logit, probability.

    A group is what the data's table ties together: a patient, else a lesion, else an image.

    Args:
        path: of the file, readable for its owner alone.
        study: what was run.
        clinics: whose test parts.
        model: the study's network; the tensors go into it.
        models: as `Outcome.models`: one named "", or each clinic's own, which scores its own test part.
        device: where.

    Raises:
        StorageError: the file cannot be written.
    """
    tables = []
    loaded = None
    for clinic in sorted(clinics, key=lambda clinic: clinic.name):
        name = clinic.name if clinic.name in models else ""
        if name != loaded:
            load_trainable(model, models[name])
            loaded = name
        images = clinic.load("test")
        model = model.to(device)
        stored = stored_inputs(FeatureCache(clinic.cache / "features"), model, images, study, device)
        inputs = stored or PixelInputs(model, images, study.data.image_size, None, device)
        logits = scores_of(model, inputs, len(images))
        tables.append(
            polars.DataFrame(
                {
                    "image": [record.image for record in images.records],
                    "clinic": [clinic.name] * len(images),
                    "group": images.groups,
                    "target": images.targets.astype(np.int8),
                    "logit": logits,
                    "probability": sigmoid(logits),
                },
                schema_overrides=dict.fromkeys(("image", "clinic", "group"), polars.String),
            )
        )
    with atomic_write(path) as file:
        polars.concat(tables).write_parquet(file)
