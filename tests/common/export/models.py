"""Small networks and pictures for the tests of what is exported."""

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from melfed.common.data.augmentation import to_input
from melfed.common.export.facts import ModelFacts
from melfed.common.export.out_of_distribution import FeatureStatistics, of_public
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.study.protocol import DataSpec, ModelSpec, StudyProtocol
from tests.common.networks import Choices, with_random_head

SIZE = 32


def network(backbone: str = "simple_cnn", **choices: object) -> Classifier:
    model = with_random_head(build_classifier(Choices(backbone=backbone, **choices), seed=1, state=None))
    if model.neck is not None:
        model.neck.projection.data.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    return model


def study_of(model: Classifier, size: int = SIZE) -> StudyProtocol:
    spec = ModelSpec(backbone=model.backbone, pretrained=False, metadata=model.metadata is not None)
    return StudyProtocol(name="small", data=DataSpec(image_size=size), model=spec)


def facts_of(model: Classifier, size: int = SIZE, **known: object) -> ModelFacts:
    return ModelFacts.of(study_of(model, size), **known)


def pictures(n: int, height: int = SIZE, width: int = SIZE, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth coloured pictures, uint8 (n, height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 6, 7, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((width, height))) for each in coarse])


def statistics(model: Classifier, images: npt.NDArray[np.uint8], false_alarms: float = 0.1) -> FeatureStatistics:
    """Statistics of what a model sees of some images, every third of which is held out."""
    return of_public(features(model, images), [number % 3 == 2 for number in range(len(images))], false_alarms)


def features(model: Classifier, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    spec = backbone_spec(model.backbone)
    with torch.inference_mode():
        return model.eval().features(to_input(images, spec.mean, spec.std, None)).numpy()


def logits(model: Classifier, images: npt.NDArray[np.uint8], metadata: torch.Tensor | None = None) -> list[float]:
    """What `melfed-server predict` computes, from the network's input on."""
    spec = backbone_spec(model.backbone)
    with torch.inference_mode():
        found = model.eval()(to_input(images, spec.mean, spec.std, None), metadata)
    return [float(logit) for logit in found]
