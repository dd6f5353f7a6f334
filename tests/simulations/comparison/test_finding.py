"""A finding knows which cells have no result."""

from tests.simulations.comparison.made import cell, finding, results, without


def test_cells_without_a_result_are_told() -> None:
    missing = without(cell("vgg16", pretrained=True))
    assert finding([*results(), missing]).failed == [missing]
    assert finding().failed == []
