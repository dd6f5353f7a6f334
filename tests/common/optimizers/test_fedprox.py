"""FedProx (Li et al., arXiv 1812.06127): the server's part is FedAvg; the proximal term is the clinics'."""

import numpy as np

from melfed.common.study.protocol import FederationSpec
from melfed.server.aggregation.mean import ServerOptimizer


def test_the_mean_is_the_next_model_whatever_the_rate_and_nothing_is_kept() -> None:
    optimizer = ServerOptimizer(FederationSpec(algorithm="fedprox", server_momentum=0.5))
    model, mean = {"w": np.array([1.0, 2.0], np.float32)}, {"w": np.array([0.1, -7.0], np.float32)}
    for _ in range(2):
        np.testing.assert_array_equal(optimizer.step(model, mean)["w"], mean["w"])
    assert optimizer.state == {}
