"""Bounds and units of the fixed point."""

import numpy as np

from melfed.common.aggregation.fixed_point import fixed_point_for, power_of_two


def test_bounds_follow_from_the_model_and_hold_what_may_be_shortened_to() -> None:
    model = {"zero": np.zeros(3, np.float32), "one": np.float32([[-1.0, 0.5]]), "large": np.float32([5e4])}
    assert fixed_point_for(model, 10).bounds == {"zero": 2.0**10, "one": 2.0**10, "large": 2.0**26}
    assert fixed_point_for(model, 10, reach=1e6).bounds == {"zero": 2.0**20, "one": 2.0**20, "large": 2.0**26}
    assert power_of_two(2.0**-5) == 2.0**-5
    assert power_of_two(np.nextafter(2.0**-5, 1)) == 2.0**-4
