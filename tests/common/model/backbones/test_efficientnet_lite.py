"""EfficientNet-Lite of timm: its feature length and size, and pixels brought to [-1, 1]."""

import importlib.util
from pathlib import Path

import pytest

from melfed.common.model.backbones.efficientnet_lite import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("efficientnet_lite0", 1280, 4_652_008),
        ("efficientnet_lite1", 1280, 5_416_680),
        ("efficientnet_lite2", 1280, 6_092_072),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"}


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_pixels_are_brought_to_minus_one_to_one_and_weights_come_from_their_package(name: str) -> None:
    spec = BACKBONES[name]
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert spec.published is None
    assert spec.package is not None
    files = importlib.util.find_spec(spec.package)
    assert files is not None
    assert files.origin is not None
    assert spec.package_file is not None
    assert (Path(files.origin).parent / spec.package_file).is_file()


def test_it_has_no_squeeze_and_excitation() -> None:
    assert not [name for name, _ in model_of("efficientnet_lite0").named_modules() if name.endswith(".se.conv_reduce")]
