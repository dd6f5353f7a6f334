"""FedAvgM (Hsu et al., arXiv 1909.06335): v = β v + Δ, x = x + η v."""

import pytest

from melfed.common.optimizers.fedavgm import OPTIMIZER
from tests.common.optimizers.steps import models


def test_steps_by_hand() -> None:
    # v: 1, 0.8 + 0.5 = 1.3, 1.04 - 4 = -2.96 and -2, -1.6 + 3 = 1.4, 1.12
    assert models(OPTIMIZER) == [
        pytest.approx([0.3, -0.6]),
        pytest.approx([0.69, -0.18]),
        pytest.approx([-0.198, 0.156], rel=1e-5),
    ]


def test_its_rate_is_one_where_a_study_states_none() -> None:
    assert (OPTIMIZER.moments, OPTIMIZER.learning_rate) == (("momentum",), 1.0)
