"""What each clinic's release added."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from melfed.common.errors import DataError
from melfed.common.moments.noisy_moments import NoisyMoments, pooled
from melfed.common.moments.solvers import SOLVERS, Wanted
from melfed.common.moments.worth import MOST_CLINICS, Judge, Seen, shapley_shares, value, worth
from tests.common.moments.test_solvers import D, Floats, moments_of, units


def clinics(*sizes: int, sigma: float = 0.5, seed: int = 0) -> dict[str, NoisyMoments]:
    return {f"c{n}": moments_of(*units(seed + n, size), sigma, seed + n) for n, size in enumerate(sizes)}


def direct(moments: NoisyMoments) -> Floats:
    return SOLVERS["discriminant"](moments, Wanted())


def test_shapleys_value_is_the_mean_over_all_orders() -> None:
    random, names = np.random.default_rng(0), "abcd"
    values = {frozenset(c for k, c in enumerate(names) if n >> k & 1): float(random.normal()) for n in range(16)}

    def added(name: str, order: tuple[str, ...]) -> float:
        before = frozenset(order[: order.index(name)])
        return values[before | {name}] - values[before]

    for name in names:
        mean = np.mean([added(name, order) for order in permutations(names)])
        shares = shapley_shares(name, frozenset(names))
        assert sum(share * (values[some | {name}] - values[some]) for some, share in shares.items()) == pytest.approx(
            mean
        )
        assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("judge", ["auroc", "squared_error"])
def test_who_has_more_patients_is_worth_more(judge: Judge) -> None:
    train, validation = clinics(3000, 60, sigma=2.0), clinics(2000, 2000, seed=50)
    found = worth(train, validation, direct, judge, np.random.default_rng(0))
    sign = 1 if judge == "auroc" else -1
    assert sign * found.shapley["c0"].value > sign * found.shapley["c1"].value
    total = sum(estimate.value for estimate in found.shapley.values())
    assert found.start.value == value(0.0, judge, Seen.of(pooled([*train.values(), *validation.values()])))[0]
    assert total == pytest.approx(found.together.value - found.start.value)
    assert found.pairs["c0", "c1"].value == pytest.approx(total)


def test_what_is_added_is_added_to_the_public_head() -> None:
    train, public = clinics(800, 800), np.array([1.0, 0.0] * (D // 2))
    found = worth(train, {}, direct, "auroc", np.random.default_rng(0), public)
    x, y = units(99, 40_000)
    start = roc_auc_score(y, x @ public)
    assert start > 0.6
    assert found.start.value == pytest.approx(start, abs=0.03)
    assert found.start.low < found.start.value < found.start.high
    assert sum(e.value for e in found.shapley.values()) == pytest.approx(found.together.value - found.start.value)


def population_value(direction: Floats, exact: Seen) -> float:
    return value(float(exact.scaled(direction) @ exact.difference), "auroc", exact)[0]


@pytest.mark.parametrize(("sigma", "most"), [(0.3, 0.02), (2.0, 0.1)])
def test_intervals_hold_what_the_heads_are_worth_to_the_population(sigma: float, most: float) -> None:
    exact = Seen.of(moments_of(*units(1000, 60_000)))
    held: list[bool] = []
    widths, errors = list[float](), list[float]()
    for world in range(20):
        train = clinics(400, 500, 100, sigma=sigma, seed=10 * world)
        found = worth(
            train, clinics(60, 60, 20, sigma=sigma, seed=5000 + 10 * world), direct, "auroc", np.random.default_rng(0)
        )
        everything = population_value(direct(pooled(train.values())), exact)
        for name in train:
            others = direct(pooled(moments for other, moments in train.items() if other != name))
            truth, estimate = everything - population_value(others, exact), found.alone[name]
            held.append(estimate.low <= truth <= estimate.high)
            widths.append(estimate.high - estimate.low)
            errors.append(estimate.value - truth)
    assert np.mean(held) >= 0.88
    # Neither are they wide because nothing is told.
    assert np.mean(widths) / 2 < most
    assert np.mean(widths) / 2 < 4 * np.std(errors)
    assert abs(np.mean(errors)) < 0.3 * np.std(errors)


@pytest.mark.parametrize("sigma", [1.5, 6.0])
def test_what_heads_owe_to_noise_that_their_judge_has_too_is_taken_off(sigma: float) -> None:
    exact = Seen.of(moments_of(*units(1000, 60_000)))
    kept, plain, held = list[float](), list[float](), list[bool]()
    for world in range(12):
        train = clinics(300, 300, sigma=sigma, seed=10 * world)
        everything = pooled(train.values())
        head = direct(everything)
        truth, seen = population_value(head, exact), Seen.of(everything)
        found = worth(train, {}, direct, "auroc", np.random.default_rng(0)).together
        kept.append(found.value - truth)
        held.append(found.low <= truth <= found.high)
        plain.append(value(float(seen.scaled(head) @ seen.difference), "auroc", seen)[0] - truth)
    assert np.mean(plain) > 0.05
    # Where noise drowns everything, the value is no better, and the interval says so.
    assert abs(np.mean(kept)) < 0.5 * np.mean(plain) or sigma > 5
    assert np.mean(held) > 0.8


def test_what_heads_share_goes_out_of_their_difference() -> None:
    found = worth(clinics(900, 900, 5, sigma=1.0), {}, direct, "auroc", np.random.default_rng(0))
    together, least = found.together, found.alone["c2"]
    assert least.high - least.low < 0.5 * (together.high - together.low)


def test_more_noise_leaves_more_open() -> None:
    quiet, loud = (
        worth(clinics(800, 800, sigma=s), {}, direct, "auroc", np.random.default_rng(0)).together for s in (0.0, 2.0)
    )
    assert quiet.high - quiet.low < 0.6 * (loud.high - loud.low)


def test_too_few_and_too_many_are_refused() -> None:
    for count in (1, MOST_CLINICS + 1):
        some = clinics(*[20] * count)
        with pytest.raises(DataError, match=f"{count} clinics: what each added can be told of 2 to 12"):
            worth(some, some, direct, "auroc", np.random.default_rng(0))


def test_clinics_whose_moments_give_no_head_are_worth_nothing() -> None:
    def refuses(moments: NoisyMoments) -> Floats:
        raise DataError("nothing")

    found = worth(clinics(50, 50), {}, refuses, "auroc", np.random.default_rng(0))
    assert found.together.value == pytest.approx(0.5)
    assert all(estimate.value == 0 for estimate in found.alone.values())


def test_the_judge_is_nearly_right() -> None:
    x, y = units(9)
    head, fresh = direct(moments_of(x, y)), units(10, 20_000)
    scores, seen = fresh[0] @ head, Seen.of(moments_of(*fresh))
    apart = float(seen.scaled(head) @ seen.difference)
    assert value(apart, "auroc", seen)[0] == pytest.approx(roc_auc_score(fresh[1], scores), abs=0.01)
    line = np.polynomial.Polynomial.fit(scores, fresh[1], 1)
    error = float(((line(scores) - fresh[1]) ** 2).mean())
    assert value(apart, "squared_error", seen)[0] == pytest.approx(error, rel=0.01)
    assert value(0.0, "squared_error", seen)[0] == pytest.approx(fresh[1].var(), rel=0.01)


@pytest.mark.parametrize("judge", ["auroc", "squared_error"])
def test_slopes_are_those_of_the_values(judge: Judge) -> None:
    seen = Seen.of(moments_of(*units(3)))
    for apart in (0.3, 1.0, 2.5):
        slope = (value(apart + 1e-5, judge, seen)[0] - value(apart - 1e-5, judge, seen)[0]) / 2e-5
        assert value(apart, judge, seen)[1] == pytest.approx(slope, rel=1e-5)


def test_the_variances_are_those_of_many_draws() -> None:
    sizes, sigma, random = 700, 1.0, np.random.default_rng(0)
    factors = np.array([1.0, -0.6])
    seen = Seen.of(moments_of(*units(0, sizes), sigma))
    heads = np.array([seen.scaled(random.normal(size=D)) for _ in factors])
    found = [Seen.of(moments_of(*units(seed, sizes), sigma, seed)) for seed in range(300)]
    along = [factors @ heads @ each.difference for each in found]
    assert (factors @ heads) @ seen.of_difference() @ (factors @ heads) == pytest.approx(np.var(along), rel=0.3)
    spread = [factors @ np.einsum("ij,jk,ik->i", heads, each.within, heads) for each in found]
    assert seen.of_spread(heads, factors) == pytest.approx(np.var(spread), rel=0.3)
