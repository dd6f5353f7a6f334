"""A clinic's optimiser: its learning rate over a run, its pull towards the global model, and its state."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from melfed.client.training.optimizer import Adjustment, LocalOptimizer
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import Place, learning_rate, schedule_factor
from tests.client.small import small_study


def parameters(*values: float) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full((2,), value)) for value in values]


def named(weights: list[torch.nn.Parameter]) -> dict[str, torch.nn.Parameter]:
    return {str(number): weight for number, weight in enumerate(weights)}


def step(
    optimizer: LocalOptimizer, gradients: Iterable[float], round_number: int = 1, number: int = 0, before: int = 0
) -> None:
    for parameter, gradient in zip(optimizer.parameters, gradients, strict=True):
        parameter.grad = torch.full((2,), gradient)
    optimizer.step(Place(round_number, number, 4, before))


def plain(federation: dict[str, object] | None = None, **training: object) -> StudyProtocol:
    sgd = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.5, "gradient_norm": None}
    return small_study(training={**sgd, **training}, federation=federation or {})


# The learning rate over a run.


@given(st.floats(0, 1))
def test_schedules_stay_between_nothing_and_the_peak(position: float) -> None:
    assert schedule_factor("constant", position) == 1.0
    for schedule in ("cosine", "one_cycle"):
        assert -1e-12 <= schedule_factor(schedule, position) <= 1.0


def test_the_cosine_falls_from_one_to_nothing() -> None:
    values = [schedule_factor("cosine", p) for p in np.linspace(0, 1, 101)]
    assert values[0] == 1.0
    assert values[50] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.0)
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("total", [20, 1000])
@pytest.mark.parametrize("final_division", [1e4, 1e12])
def test_one_cycle_is_that_of_pytorch(total: int, final_division: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, pct_start=0.3, final_div_factor=final_division, cycle_momentum=False
    )
    turn, end = 0.3 * total - 1, total - 1
    bound = 1e-6 + 1 / 25 / final_division  # what is left of the learning rate at PyTorch's end
    for step in range(total):
        # PyTorch turns at step 0.3 n - 1 and ends at step n - 1.
        position = 0.3 * step / turn if step <= turn else 0.3 + 0.7 * (step - turn) / (end - turn)
        assert schedule_factor("one_cycle", position) == pytest.approx(oracle.get_last_lr()[0], abs=bound)
        optimizer.step()
        if step < end:
            oracle.step()


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_the_rate_of_a_step_is_that_of_its_place_in_the_run(schedule: str) -> None:
    study = plain({"rounds": 5}, schedule=schedule, warmup_steps=0)
    for round_number, number in ((1, 0), (2, 3), (5, 3)):
        (parameter,) = weights = parameters(0.0)
        step(LocalOptimizer(named(weights), study), [1.0], round_number, number)
        rate = 0.5 * schedule_factor(schedule, (round_number - 1 + (number + 0.5) / 4) / 5)
        assert parameter.tolist() == pytest.approx([-rate] * 2, rel=1e-6)


def test_the_rate_rises_over_the_first_steps_of_the_run() -> None:
    moved = []
    for before in range(5):
        # A clinic begins a new optimiser each round: here every round is of one step.
        (parameter,) = weights = parameters(0.0)
        step(LocalOptimizer(named(weights), plain(warmup_steps=3)), [1.0], before + 1, before=before)
        moved.append(-float(parameter.detach()[0]))
    assert moved == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])


@given(
    schedule=st.sampled_from(["constant", "cosine", "one_cycle"]),
    warmup=st.integers(0, 30),
    rounds=st.integers(1, 8),
    steps=st.integers(1, 6),
)
def test_the_rate_is_that_of_the_step_of_the_run_however_rounds_cut_it(
    schedule: str, warmup: int, rounds: int, steps: int
) -> None:
    study = plain({"rounds": rounds}, schedule=schedule, warmup_steps=warmup)
    whole = plain({"rounds": 1}, schedule=schedule, warmup_steps=warmup)
    rates = [
        learning_rate(study, Place(number, step, steps, (number - 1) * steps))
        for number in range(1, rounds + 1)
        for step in range(steps)
    ]
    of_one_round = [learning_rate(whole, Place(1, step, rounds * steps, 0)) for step in range(rounds * steps)]
    assert rates == pytest.approx(of_one_round)


# What a step does.


@pytest.mark.parametrize("limit", [None, 1000.0, 1.0])
def test_a_long_gradient_is_shortened_as_a_whole(limit: float | None) -> None:
    weights = parameters(0.0, 0.0)
    step(LocalOptimizer(named(weights), plain(gradient_norm=limit, learning_rate=1.0, warmup_steps=0)), (6.0, 8.0))
    norm = math.sqrt(2 * 6**2 + 2 * 8**2)
    scale = min(1.0, (limit or math.inf) / norm)
    assert [float(weight.detach()[0]) for weight in weights] == pytest.approx([-6 * scale, -8 * scale], rel=1e-4)


def test_fedprox_pulls_towards_where_the_optimiser_began() -> None:
    study = plain({"algorithm": "fedprox", "proximal_mu": 0.2}, warmup_steps=0)
    (parameter,) = weights = parameters(3.0)
    optimizer = LocalOptimizer(named(weights), study)
    step(optimizer, [1.0])  # at the origin there is no pull
    assert parameter.tolist() == pytest.approx([2.5, 2.5])
    step(optimizer, [0.0])  # 0.5 * 0.2 of the way back
    assert parameter.tolist() == pytest.approx([2.55, 2.55])


def test_fedprox_leaves_parameters_without_a_gradient_alone() -> None:
    study = plain({"algorithm": "fedprox", "proximal_mu": 10.0})
    weights = parameters(1.0, 2.0)
    optimizer = LocalOptimizer(named(weights), study)
    with torch.no_grad():
        weights[1].add_(1)
    weights[0].grad = torch.ones(2)
    optimizer.step(Place(1, 0, 1, 0))
    assert weights[1].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("federation", [{"algorithm": "fedavg"}, {"algorithm": "fedprox", "mode": "central"}])
def test_nothing_else_is_pulled(federation: dict[str, object]) -> None:
    assert LocalOptimizer(named(parameters(1.0)), plain({**federation, "proximal_mu": 10.0})).anchor is None


def test_a_correction_is_added_after_long_gradients_were_shortened() -> None:
    (parameter,) = weights = parameters(0.0)
    adjustment = Adjustment(correction={"0": np.array([1.0, -2.0], np.float32)})
    optimizer = LocalOptimizer(named(weights), plain(gradient_norm=1.0, warmup_steps=0), adjustment)
    step(optimizer, [100.0])
    root = 1 / math.sqrt(2)
    assert parameter.tolist() == pytest.approx([-0.5 * (root + 1), -0.5 * (root - 2)], rel=1e-5)
    optimizer.zero_grad()
    optimizer.step(Place(1, 1, 4, 0))  # a parameter without a gradient is corrected as well
    assert parameter.tolist() == pytest.approx([-0.5 * (root + 2), -0.5 * (root - 4)], rel=1e-5)


def test_an_anchor_pulls_from_elsewhere_than_the_beginning() -> None:
    (parameter,) = weights = parameters(3.0)
    adjustment = Adjustment(anchor={"0": np.array([1.0, 5.0], np.float32)})
    study = plain({"algorithm": "ditto", "proximal_mu": 0.2}, warmup_steps=0)
    step(LocalOptimizer(named(weights), study, adjustment), [0.0])
    assert parameter.tolist() == pytest.approx([3 - 0.5 * 0.2 * 2, 3 + 0.5 * 0.2 * 2])


def test_gradients_are_forgotten() -> None:
    weights = parameters(1.0, 2.0)
    optimizer = LocalOptimizer(named(weights), plain())
    step(optimizer, (1.0, 1.0))
    optimizer.zero_grad()
    assert all(weight.grad is None for weight in weights)


# Its state.


@given(st.sampled_from(["adamw", "adam", "sgd"]), st.integers(0, 4), st.integers(1, 3), st.sampled_from([0.0, 0.9]))
def test_a_restored_optimiser_goes_on_bit_for_bit(kind: str, before: int, after: int, momentum: float) -> None:
    study = plain(optimizer=kind, momentum=momentum, weight_decay=0.1, warmup_steps=2)

    def gradients(number: int) -> tuple[float, float]:
        return math.sin(number + 1.0), math.cos(number + 1.0)

    whole = LocalOptimizer(named(parameters(1.0, -2.0)), study)
    for number in range(before):
        step(whole, gradients(number))
    values = [float(weight.detach()[0]) for weight in whole.parameters]
    again = LocalOptimizer(named(parameters(*values)), study)
    again.restore({name: tensor.copy() for name, tensor in whole.state().items()})
    for number in range(before, before + after):
        step(whole, gradients(number))
        step(again, gradients(number))
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters, again.parameters, strict=True))
    assert whole.state().keys() == again.state().keys()
    assert all((tensor == again.state()[name]).all() for name, tensor in whole.state().items())


def test_a_state_is_float32_and_names_its_parameter() -> None:
    optimizer = LocalOptimizer(named(parameters(1.0, 2.0)), plain(optimizer="adam"))
    step(optimizer, (1.0, 1.0))
    state = optimizer.state()
    assert state.keys() == {f"{i}/{key}" for i in (0, 1) for key in ("step", "exp_avg", "exp_avg_sq")}
    assert all(tensor.dtype == np.float32 for tensor in state.values())
