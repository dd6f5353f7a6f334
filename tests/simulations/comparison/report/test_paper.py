"""The published figures: all families of the paper are melfed's, and substitutes are told from them."""

from melfed.common.model.backbones import BACKBONES
from melfed.simulations.comparison.report.paper import PAPER, SUBSTITUTES, published


def test_every_family_is_one_of_melfeds_and_within_its_range() -> None:
    assert len(PAPER) == 11
    assert PAPER.keys() | SUBSTITUTES.keys() <= BACKBONES.keys()
    for family in PAPER.values():
        for pair in (family.scratch, *([family.transfer] if family.transfer else [])):
            assert all(0.4 < mean < 1 and 0 < half < 0.05 for mean, half in pair)
    assert [name for name, family in PAPER.items() if family.transfer is None] == ["simple_cnn"]


def test_a_substitute_has_the_figures_of_what_it_stands_for() -> None:
    assert published("efficientnet_lite0") == (PAPER["efficientnet_b2"], True)
    assert published("vgg16") == (PAPER["vgg16"], False)
    assert published("resnet18") is None
