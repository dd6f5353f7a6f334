"""Whether promises are kept: exact scores promise and cover, noise widens, and the same seed gives the same figures."""

import math

from melfed.simulations.benchmarks.calibration import measure


def test_a_row_an_epsilon_and_quantity_and_promises_that_are_kept() -> None:
    rows = measure((3.0, math.inf), 6, melanomas=300, clinics=2, seed=0)
    names = ["sensitivity 0.95", "sensitivity 0.9", "specificity 0.9", "raw slope"]
    names += ["mapped slope, own truth", "mapped slope, 1"]
    assert [row["quantity"] for row in rows] == 2 * names
    noised, exact = ({row["quantity"]: row for row in rows if row["epsilon"] == epsilon} for epsilon in (3.0, None))
    for name in names:
        assert exact[name]["known"] >= 5
        assert exact[name]["covered"] >= 0.6
    assert noised["raw slope"]["width"] > exact["raw slope"]["width"]
    assert 0.8 < exact["raw slope"]["mean"] < 1.2
    assert rows == measure((3.0, math.inf), 6, melanomas=300, clinics=2, seed=0)
