"""ResNet and ResNeXt: the feature lengths and sizes that torchvision publishes."""

import pytest

from melfed.common.model.backbones.resnet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("resnet18", 512, 11_689_512),
        ("resnet50", 2048, 25_557_032),
        ("resnext50_32x4d", 2048, 25_028_904),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"resnet18", "resnet50", "resnext50_32x4d"}


def test_the_last_block_is_the_fourth_stage() -> None:
    assert [len(model_of(name).get_submodule("layer4")) for name in ("resnet18", "resnet50")] == [2, 3]
