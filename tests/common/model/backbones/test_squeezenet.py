"""SqueezeNet: the feature lengths and sizes that torchvision publishes; its classifier averages too."""

import pytest

from melfed.common.model.backbones.squeezenet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("squeezenet1_0", 512, 1_248_424),
        ("squeezenet1_1", 512, 1_235_496),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"squeezenet1_0", "squeezenet1_1"}


def test_its_classifier_is_replaced_by_an_average() -> None:
    assert all(spec.pools_in_classifier for spec in BACKBONES.values())
    names = [type(m).__name__ for m in model_of("squeezenet1_1").get_submodule("classifier")]
    assert names[-1] == "AdaptiveAvgPool2d"
