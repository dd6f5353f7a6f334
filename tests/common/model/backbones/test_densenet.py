"""DenseNet: the feature lengths and sizes that torchvision publishes."""

import pytest

from melfed.common.model.backbones.densenet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("densenet121", 1024, 7_978_856),
        ("densenet161", 2208, 28_681_000),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"densenet121", "densenet161"}


def test_the_last_block_is_the_fourth_dense_block() -> None:
    last = model_of("densenet121").get_submodule("features.denseblock4")
    assert len(list(last.children())) == 16
