"""What comes is checked before it is used; what leaves is of the global model alone (see tests/common/algorithms)."""

import numpy as np
import pytest
from torch import nn

from melfed.client.training.local_round import LocalRound
from melfed.common.model.norms import FrozenStatisticsNorm
from melfed.common.tensors import TensorError
from tests.common.algorithms.toys import Point, toy_study

ONE = {"x": np.ones(1, np.float32)}


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"x": np.ones(2, np.float32)},
        {"x": np.array([np.nan], np.float32)},
        {**ONE, "y": np.ones(1, np.float32)},
        {**ONE, "control/x": np.ones(1, np.float32)},
    ],
)
def test_a_model_that_does_not_fit_is_refused(tensors: dict[str, np.ndarray]) -> None:
    with pytest.raises(TensorError):
        LocalRound(toy_study("fedavg", 1), Point(), {}).begun(tensors, {})


@pytest.mark.parametrize("control", [None, np.ones(2, np.float32), np.array([np.inf], np.float32)])
def test_a_control_variate_that_does_not_fit_is_refused(control: np.ndarray | None) -> None:
    local = LocalRound(toy_study("scaffold", 1), Point(), {})
    sent = ONE if control is None else {**ONE, "control/x": control}
    with pytest.raises(TensorError):
        local.begun(sent, {})
    assert local.begun(ONE, {}, trains=False).control == {}


def test_what_a_clinic_keeps_to_itself_neither_comes_nor_leaves() -> None:
    model = nn.Sequential(FrozenStatisticsNorm(nn.BatchNorm2d(1)), nn.Linear(1, 1))
    initial = {name: np.full(1, 0.5, np.float32) for name in ("0.weight", "0.bias")}
    local = LocalRound(toy_study("fedbn", 1), model, initial)
    ours = {"1.weight": np.ones((1, 1), np.float32), "1.bias": np.ones(1, np.float32)}
    begun = local.begun(ours, {})
    assert local.judged(begun).keys() == {*ours, *initial}
    assert local.judged(begun)["0.bias"] == 0.5
    learnt, _ = local.learn(begun, lambda _: None)
    assert local.sent(begun, learnt).keys() == ours.keys()
    assert local.kept(begun, learnt, 1.0).keys() == initial.keys()
    with pytest.raises(TensorError):
        local.begun({**ours, "0.weight": np.ones(1, np.float32)}, {})
