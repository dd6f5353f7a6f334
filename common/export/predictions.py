"""A finished model's word on single pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from melfed.common.data.augmentation import to_input
from melfed.common.data.images.decoder import ImageProblem, decode
from melfed.common.errors import RunError
from melfed.common.export.out_of_distribution import FeatureStatistics
from melfed.common.metrics.calibration_map import Calibration
from melfed.common.metrics.histogram import sigmoid
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier
from melfed.common.model.inference import autocast, pick_device


@dataclass(frozen=True)
class Prediction:
    """The score of one image, as logit and as probability of a positive, or why there is none.

    `low` and `high` are the 95 % limits of the share of positives among images of this logit, by the uncertainty of the
    calibration map; None where there is no such map.
    `calibrated` says whether the probability is that of such a map; else it is the sigmoid of the logit, which orders
    images and is no share of positives.
    `unlike` is how far it is from what the model has seen, over the distance from which on it is unlike all of that
    (`melfed.common.export.out_of_distribution`); None where the model carries no statistics.
    """

    image: Path
    probability: float | None
    problem: str | None = None
    logit: float | None = None
    low: float | None = None
    high: float | None = None
    unlike: float | None = None
    calibrated: bool = False


def predictions(
    model: Classifier,
    size: int,
    images: Sequence[Path],
    calibration: Calibration | None = None,
    seen: FeatureStatistics | None = None,
) -> Iterator[Prediction]:
    """Yield a score for each image file.

    Args:
        model: the network.
        size: side of its input, pixels.
        images: files.
        calibration: from logits to probabilities; None: the sigmoid of the logit.
        seen: statistics of what the model has seen; None: `unlike` stays None.

    Raises:
        RunError: the model needs age, sex and site, which a picture does not carry; the statistics are of another one.
    """
    if model.metadata is not None:
        raise RunError("this model needs age, sex and site, which a picture does not carry; evaluate it with a table")
    device = pick_device()
    model = model.to(device).eval()
    backbone = backbone_spec(model.backbone)
    for path in images:
        try:
            pixels = decode(path, size)
        except ImageProblem as problem:
            yield Prediction(path, None, problem.reason)
            continue
        with torch.inference_mode(), autocast(device):
            inputs = to_input(pixels[None], backbone.mean, backbone.std, None, device)
            features = model.features(inputs)
            logit = float(model.logits(features).double().cpu())
        unlike = None if seen is None else float(seen.scores(features.float().cpu().numpy())[0])
        if calibration is None:
            yield Prediction(path, float(sigmoid(logit)), logit=logit, unlike=unlike)
        else:
            low, high = calibration.interval(logit) if calibration.covariance else (None, None)
            share = float(calibration.probability(logit))
            yield Prediction(path, share, logit=logit, low=low, high=high, unlike=unlike, calibrated=True)
