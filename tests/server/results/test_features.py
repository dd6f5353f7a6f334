"""What a model's head sees of images."""

import numpy as np
import pytest
import torch

from melfed.common.data.augmentation import to_input
from melfed.common.model.backbones import backbone_spec
from melfed.server.results.features import features_of
from tests.common.export.models import pictures
from tests.server.finished import network, study_with


def test_they_are_what_the_head_makes_logits_of_image_by_image() -> None:
    model, images, steps = network(study_with()).eval(), pictures(5), list[tuple[int, int]]()
    found = features_of(model, images, lambda done, every: steps.append((done, every)))
    assert steps[-1] == (5, 5)
    spec = backbone_spec(model.backbone)
    with torch.inference_mode():
        inputs = to_input(np.stack(images), spec.mean, spec.std, None, torch.device("cpu"))
        assert model.head(torch.from_numpy(found)).squeeze(-1).tolist() == pytest.approx(
            model(inputs).tolist(), abs=1e-5
        )
        alone = [features_of(model, [image])[0] for image in images]
    assert np.allclose(found, alone, atol=1e-5)
