"""The exported network computes what the classifier computes behind `to_input`."""

import numpy as np
import torch

from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.export.network import ExportNetwork, example
from tests.common.export.models import SIZE, logits, network, pictures


def test_logits_are_the_classifiers() -> None:
    images, metadata = pictures(3), torch.randn(3, METADATA_FEATURES, generator=torch.Generator().manual_seed(1))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    for choices in ({}, {"metadata": True}, {"neck": 4}):
        model = network(**choices)
        told = metadata if model.metadata is not None else None
        found = ExportNetwork(model)(pixels, told).numpy()
        np.testing.assert_allclose(found, logits(model, images, told), rtol=1e-5, atol=1e-5)
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_example_has_the_shapes_of_the_inputs() -> None:
    assert [tuple(t.shape) for t in example(ExportNetwork(network()), SIZE)] == [(1, 3, SIZE, SIZE)]
    both = example(ExportNetwork(network(metadata=True)), SIZE, n=2)
    assert [tuple(t.shape) for t in both] == [(2, 3, SIZE, SIZE), (2, METADATA_FEATURES)]
