"""GoogLeNet without its two other classifiers."""

import pytest

from melfed.common.model.backbones.googlenet import BACKBONES
from tests.common.model.backbones.library import check_entry, model_of


@pytest.mark.parametrize(
    ("name", "features", "parameters"),
    [
        ("googlenet", 1024, 6_624_904),
    ],
)
def test_an_entry_is_the_published_network(name: str, features: int, parameters: int) -> None:
    assert BACKBONES[name].features == features
    check_entry(name, parameters)


def test_every_entry_is_looked_at() -> None:
    assert set(BACKBONES) == {"googlenet"}


def test_the_published_weights_have_other_classifiers_and_another_normalisation() -> None:
    spec = BACKBONES["googlenet"]
    assert spec.pretrained_arguments == {"transform_input": True}
    assert set(spec.other_names) == {"aux1", "aux2"}
    assert not {name.partition(".")[0] for name, _ in model_of("googlenet").named_parameters()} & set(spec.other_names)
