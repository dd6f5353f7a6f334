"""MnasNet: the feature length and size that torchvision publishes."""

import pytest

from melfed.common.model.backbones.mnasnet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("mnasnet1_0", 1280, 4_383_312),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"mnasnet1_0"}


def test_the_last_block_is_that_of_320_channels_and_the_layer_after_it() -> None:
    model = model_of("mnasnet1_0")
    assert model.get_submodule("layers.13")[0].layers[6].out_channels == 320
    assert model.get_submodule("layers.14").out_channels == 1280
