"""The server optimisers against the papers and Flower's own."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedYogi
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from melfed.common.study.protocol import FederationSpec
from melfed.server.aggregation.mean import RoundMean, ServerOptimizer, tail_average
from melfed.server.runs.checkpoints import Checkpoint, last_checkpoint, save_checkpoint

# Server optimisers. A round: each of two clinics answers, and the model goes from `model` to the optimiser's answer.

ROUNDS = 6
SHAPES = {"w": (3, 4), "b": (4,)}
RATE, BETA1, BETA2, TAU = 0.3, 0.8, 0.95, 1e-2

Floats = npt.NDArray[np.float64]


def spec_of(algorithm: str) -> FederationSpec:
    return FederationSpec.model_validate(
        {"algorithm": algorithm, "server_learning_rate": RATE, "server_momentum": BETA1, "server_beta2": BETA2,
         "server_tau": TAU}
    )  # fmt: skip


def means() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()} for _ in range(ROUNDS)]


def first_model() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def ours(algorithm: str) -> list[dict[str, np.ndarray]]:
    model, models = first_model(), []
    optimizer = ServerOptimizer(spec_of(algorithm))
    for mean in means():
        model = optimizer.step(model, mean)
        models.append(model)
    return models


def record(tensors: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(tensor)) for name, tensor in tensors.items()})


def reply(tensors: dict[str, np.ndarray], examples: int) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    asked = Message(RecordDict(), dst_node_id=5, message_type="train")
    asked.metadata.__dict__["_message_id"] = "1"
    metrics = MetricRecord({"num-examples": examples, "loss": 0.5})
    return Message(RecordDict({"arrays": record(tensors), "metrics": metrics}), reply_to=asked)


def flowers(strategy: FedAvgM | FedYogi | FedAdam) -> list[dict[str, np.ndarray]]:
    """Models by round of a strategy of Flower's that receives the same means, each as two replies around it."""
    model, models = first_model(), []
    for number, mean in enumerate(means(), start=1):
        if isinstance(strategy, FedAvgM):
            strategy.current_arrays = record(model)
        else:
            strategy.current_arrays = dict(model)
        half = {name: np.float32(0.25) * np.ones_like(tensor) for name, tensor in mean.items()}
        replies = [
            reply({name: tensor + half[name] for name, tensor in mean.items()}, 30),
            reply({name: tensor - half[name] for name, tensor in mean.items()}, 30),
        ]
        aggregated, _ = strategy.aggregate_train(number, replies)
        assert aggregated is not None
        model = {name: array.numpy() for name, array in aggregated.items()}
        models.append(model)
    return models


def assert_same(left: list[dict[str, np.ndarray]], right: list[dict[str, np.ndarray]]) -> None:
    assert len(left) == len(right) == ROUNDS
    for a, b in zip(left, right, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox"])
def test_fedavg_and_fedprox_take_the_mean_itself(algorithm: str) -> None:
    for model, mean in zip(ours(algorithm), means(), strict=True):
        for name in SHAPES:
            np.testing.assert_array_equal(model[name], mean[name])


def test_fedavgm_is_flowers() -> None:
    assert_same(ours("fedavgm"), flowers(FedAvgM(server_learning_rate=RATE, server_momentum=BETA1)))


def started(strategy: FedYogi | FedAdam) -> FedYogi | FedAdam:
    """Flower's second moment starts at zero, the paper's at τ² or above."""
    strategy.v_t = {name: np.full(shape, TAU**2, np.float32) for name, shape in SHAPES.items()}
    return strategy


def test_fedyogi_is_flowers_started_at_tau_squared() -> None:
    arguments = {"eta": RATE, "beta_1": BETA1, "beta_2": BETA2, "tau": TAU}
    assert_same(ours("fedyogi"), flowers(started(FedYogi(**arguments))))
    with pytest.raises(AssertionError):
        assert_same(ours("fedyogi"), flowers(FedYogi(**arguments)))


class UncorrectedFedAdam(FedAdam):
    """Flower's FedAdam less Adam's bias correction, which the paper's algorithm 2 does not have."""

    def aggregate_train(self, server_round, replies):
        correction = np.sqrt(1 - self.beta_2 ** (server_round + 1.0)) / (1 - self.beta_1 ** (server_round + 1.0))
        self.eta = RATE / correction
        return super().aggregate_train(server_round, replies)


def test_fedadam_is_flowers_less_its_bias_correction_started_at_tau_squared() -> None:
    arguments = {"eta": RATE, "beta_1": BETA1, "beta_2": BETA2, "tau": TAU}
    assert_same(ours("fedadam"), flowers(started(UncorrectedFedAdam(**arguments))))
    for other in (started(FedAdam(**arguments)), UncorrectedFedAdam(**arguments)):
        with pytest.raises(AssertionError):
            assert_same(ours("fedadam"), flowers(other))


@pytest.mark.parametrize("algorithm", ["fedadam", "fedyogi"])
def test_where_nothing_is_stated_a_small_change_is_a_small_step(algorithm: str) -> None:
    """At a rate of 1 a change of 0.01 was a step of 0.5."""
    model, mean = {"x": np.zeros(3, np.float32)}, {"x": np.full(3, 0.01, np.float32)}
    moved = ServerOptimizer(FederationSpec(algorithm=algorithm)).step(model, mean)["x"]
    # m = 0.1 Δ, v = 0.99 τ² + 0.01 Δ² (FedYogi: τ² + 0.01 Δ²), τ = 10^-3.
    second = {"fedadam": 0.99e-6 + 1e-6, "fedyogi": 1e-6 + 1e-6}[algorithm]
    assert moved.tolist() == pytest.approx([0.01 * 1e-3 / (second**0.5 + 1e-3)] * 3, rel=1e-4)
    assert 0.003 < moved[0] < 0.01


@pytest.mark.parametrize("algorithm", ["fedavgm", "fedadam", "fedyogi"])
def test_the_optimiser_goes_on_from_a_checkpoint_bit_for_bit(algorithm: str, tmp_path: Path) -> None:
    model = first_model()
    for number, mean in enumerate(means(), start=1):
        saved = last_checkpoint(tmp_path, "d")
        optimizer = ServerOptimizer(spec_of(algorithm), saved.optimizer if saved else None)
        model = optimizer.step(saved.model if saved else model, mean)
        assert all(tensor.dtype == np.float32 for tensor in (model | optimizer.state).values())
        save_checkpoint(tmp_path, Checkpoint(number, "d", model, optimizer.state))
    for name in SHAPES:
        np.testing.assert_array_equal(model[name], ours(algorithm)[-1][name])


# The average over the last rounds.


def averages(spec: FederationSpec, models: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    """What is held after each round."""
    held, average = [], {}
    for number, model in enumerate(models, start=1):
        average = tail_average(spec, number, average, model)
        held.append(average)
    return held


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.floats(0, 0.99), st.integers(0, 2**32))
def test_the_tail_average_is_numpys_mean_of_the_last_models(rounds: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    models = [{n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()} for _ in range(rounds)]
    spec = FederationSpec(rounds=rounds, tail_average=share)
    counted = round(share * rounds)
    held = averages(spec, models)
    assert held[: rounds - counted] == [{}] * (rounds - counted)
    for number in range(rounds - counted, rounds):
        assert held[number].keys() == SHAPES.keys()
        for name in SHAPES:
            expected = np.mean([model[name] for model in models[rounds - counted : number + 1]], axis=0, dtype=float)
            assert held[number][name].dtype == np.float32
            np.testing.assert_allclose(held[number][name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("rounds", "share", "first"), [(10, 0.5, 6), (4, 0.25, 4), (3, 0.99, 1), (60, 0.5, 31)])
def test_the_share_of_rounds_that_is_averaged(rounds: int, share: float, first: int) -> None:
    spec = FederationSpec(rounds=rounds, tail_average=share)
    models = [{"x": np.full(2, number, np.float32)} for number in range(1, rounds + 1)]
    held = averages(spec, models)
    assert [bool(average) for average in held] == [number >= first for number in range(1, rounds + 1)]
    assert held[-1]["x"].tolist() == [(first + rounds) / 2] * 2


def test_models_are_not_touched_by_their_average() -> None:
    spec = FederationSpec(rounds=2, tail_average=0.99)
    models = [{"x": np.zeros(3, np.float32)}, {"x": np.ones(3, np.float32)}]
    averages(spec, models)
    assert [model["x"].tolist() for model in models] == [[0.0] * 3, [1.0] * 3]


LESIONS = np.array([1097, 1152, 2770, 196])
BETWEEN, PARAMETERS = 0.017, 65


def squared_error(weights: Floats, variances: Floats) -> float:
    """What weights of clinics are wrong by, of the mean over all patients, as `RoundMean` derives it."""
    shares = LESIONS / LESIONS.sum()
    return float(weights**2 @ variances + BETWEEN * ((weights - shares) ** 2).sum())


@pytest.mark.parametrize(("mu", "most", "least_of_noise_alone"), [(0.27, 1.12, 8), (0.72, 1.03, 50), (1.67, 1.01, 250)])
def test_clinics_weigh_by_patients_which_is_hardly_worse_than_the_best(
    mu: float, most: float, least_of_noise_alone: float
) -> None:
    variances = PARAMETERS / (mu * LESIONS) ** 2
    shares = LESIONS / LESIONS.sum()
    add_up = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    oracle = minimize(lambda weights: 1e3 * squared_error(weights, variances), shares, constraints=add_up, tol=1e-12)
    best = squared_error(oracle.x, variances)
    # The closed form of the docstring.
    whole = variances + BETWEEN
    rest = (1 - (BETWEEN * shares / whole).sum()) / (1 / whole).sum()
    assert oracle.x == pytest.approx((BETWEEN * shares + rest) / whole, abs=1e-3)
    assert squared_error(shares, variances) < most * best
    by_noise = LESIONS**2 / (LESIONS**2).sum()
    assert squared_error(by_noise, variances) > least_of_noise_alone * best

    # And that is what a round's mean does with what clinics send.
    random, errors = np.random.default_rng(0), list[float]()
    model = {"head.weight": np.zeros(PARAMETERS, np.float32)}
    for _ in range(300):
        clinics = random.normal(0, np.sqrt(BETWEEN / PARAMETERS), (len(LESIONS), PARAMETERS))
        total = RoundMean(FederationSpec(), model, int(LESIONS.sum()))
        for number, (clinic, variance) in enumerate(zip(clinics, variances, strict=True)):
            sent = clinic + random.normal(0, np.sqrt(variance / PARAMETERS), PARAMETERS)
            total.add(str(number), {"head.weight": sent.astype(np.float32)}, int(LESIONS[number]))
        errors.append(float(((total.mean()["head.weight"] - shares @ clinics) ** 2).sum()))
    assert np.mean(errors) == pytest.approx(squared_error(shares, variances), rel=0.1)
