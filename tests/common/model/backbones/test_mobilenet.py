"""MobileNet: the feature lengths and sizes that torchvision publishes."""

import pytest

from melfed.common.model.backbones.mobilenet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("mobilenet_v2", 1280, 3_504_872),
        ("mobilenet_v3_small", 1024, 2_542_856),
        ("mobilenet_v3_large", 1280, 5_483_032),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"}


def test_the_layer_before_the_classifier_of_v3_learns_with_the_last_block() -> None:
    for name in ("mobilenet_v3_small", "mobilenet_v3_large"):
        assert BACKBONES[name].last_block[-1] == "classifier.0"
        assert model_of(name).get_submodule("classifier.0").out_features == BACKBONES[name].features
