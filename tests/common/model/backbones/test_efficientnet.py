"""EfficientNet: the feature lengths and sizes that torchvision publishes; no layer is dropped at random."""

import pytest
from torchvision.ops import StochasticDepth

from melfed.common.model.backbones.efficientnet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("efficientnet_b0", 1280, 5_288_548),
        ("efficientnet_b2", 1408, 9_109_994),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"efficientnet_b0", "efficientnet_b2"}


def test_no_layer_is_dropped_at_random() -> None:
    assert {m.p for m in model_of("efficientnet_b0").modules() if isinstance(m, StochasticDepth)} == {0.0}
