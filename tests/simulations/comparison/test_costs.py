"""What a network costs, against numbers by hand and published ones."""

import pytest

from melfed.common.model.classifier import build_classifier
from melfed.simulations.comparison.costs import costs_of, shape_of
from tests.simulations.comparison.made import study


def test_the_simple_network_by_hand() -> None:
    """Five convolutions of 11 filters, kernel 4, padding 2, each before a pooling of 3 that rounds up."""
    made = study("simple_cnn", data={"image_size": 32})
    found = costs_of(made)
    side, channels, products = 32, 3, 0
    for _ in range(5):
        after = side + 2 * 2 - 4 + 1
        products += after**2 * 11 * channels * 16
        side, channels = -(-(after - 3) // 3) + 1, 11
    assert found.flops == 2 * (products + 11)  # and the head
    whole = build_classifier(made.model, seed=0, state=None)
    assert found.parameters == found.trained == sum(p.numel() for p in whole.parameters())
    assert 0 < found.latency < 1000


def test_a_head_alone_learns_and_the_published_cost_of_a_family() -> None:
    made = study(
        "mobilenet_v2", pretrained=True, data={"image_size": 224}, model={"backbone": "mobilenet_v2", "train": "head"}
    )
    found = costs_of(made)
    assert found.trained == 1281
    # Torchvision publishes 0.300 G multiplications and additions with the ImageNet classifier, which has 1.28 M.
    assert found.flops / 2 == pytest.approx(0.300e9 - 1.28e6 + 1280, rel=0.01)


def test_costs_follow_from_the_network_alone() -> None:
    assert shape_of(study("simple_cnn", seed=1)) == shape_of(study("simple_cnn", training={"learning_rate": 0.1}))
    assert shape_of(study("simple_cnn")) != shape_of(study("simple_cnn", data={"image_size": 64}))
