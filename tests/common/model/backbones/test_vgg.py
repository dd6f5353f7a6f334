"""VGG: the feature lengths and sizes that torchvision publishes."""

import pytest

from melfed.common.model.backbones.vgg import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("vgg11", 4096, 132_863_336),
        ("vgg16", 4096, 138_357_544),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"vgg11", "vgg16"}


def test_the_last_block_is_the_fifth_of_convolutions_and_the_wide_layers_stay_frozen() -> None:
    for name, convolutions in (("vgg11", 2), ("vgg16", 3)):
        model, block = model_of(name), BACKBONES[name].last_block
        assert len(block) == convolutions
        assert {model.get_submodule(part).in_channels for part in block} == {512}
        assert not any(part.startswith("classifier") for part in block)
