"""ShuffleNet: the feature length and size that torchvision publishes."""

import pytest

from melfed.common.model.backbones.shufflenet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("shufflenet_v2_x1_0", 1024, 2_278_604),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"shufflenet_v2_x1_0"}


def test_the_last_block_is_the_fourth_stage_and_the_layer_after_it() -> None:
    model = model_of("shufflenet_v2_x1_0")
    assert (len(model.get_submodule("stage4")), model.get_submodule("conv5")[0].out_channels) == (4, 1024)
