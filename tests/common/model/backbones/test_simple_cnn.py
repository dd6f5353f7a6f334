"""The small network of our own."""

import torch
from torch import nn

from melfed.common.model.backbones.simple_cnn import BACKBONES
from melfed.common.model.classifier import SimpleCNN


def test_it_makes_so_many_features_and_ends_with_its_last_convolution() -> None:
    spec = BACKBONES["simple_cnn"]
    network = SimpleCNN().eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, spec.features)
    convolutions = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    assert spec.last_block == (convolutions[-1],)


def test_it_has_no_published_weights_and_a_dropout_of_its_own() -> None:
    spec = BACKBONES["simple_cnn"]
    assert (spec.classifier, spec.published, spec.package, spec.dropout) == (None, None, None, 0.4)
