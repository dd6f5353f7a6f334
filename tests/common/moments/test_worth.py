"""What each clinic's release added."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from melfed.common.errors import DataError
from melfed.common.moments.head import Head
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.common.moments.solvers import Wanted, solve
from melfed.common.moments.worth import MOST_CLINICS, Judge, judged, shapley, worth
from tests.common.moments.test_solvers import moments_of, units


def clinics(*sizes: int, sigma: float = 0.5) -> dict[str, NoisyMoments]:
    return {f"c{n}": moments_of(*units(n, size), sigma, n) for n, size in enumerate(sizes)}


def discriminant(moments: NoisyMoments) -> Head:
    return solve("discriminant", moments, Wanted())


def test_shapleys_value_is_the_mean_over_all_orders() -> None:
    random, names = np.random.default_rng(0), "abcd"
    values = {frozenset(c for k, c in enumerate(names) if n >> k & 1): float(random.normal()) for n in range(16)}

    def added(name: str, order: tuple[str, ...]) -> float:
        before = frozenset(order[: order.index(name)])
        return values[before | {name}] - values[before]

    for name in names:
        mean = np.mean([added(name, order) for order in permutations(names)])
        assert shapley(name, frozenset(names), values) == pytest.approx(mean)


@pytest.mark.parametrize("judge", ["auroc", "squared_error"])
def test_who_has_more_patients_is_worth_more(judge: Judge) -> None:
    train = clinics(3000, 60, sigma=2.0)
    found = worth(train, clinics(2000, 2000), discriminant, judge, np.random.default_rng(0))
    sign = 1 if judge == "auroc" else -1
    assert sign * found.shapley["c0"].value > sign * found.shapley["c1"].value
    total = sum(estimate.value for estimate in found.shapley.values())
    start = 0.5 if judge == "auroc" else judged(None, sum_of(2000, 2000), sum_of(2000, 2000), "squared_error")
    assert total == pytest.approx(found.together.value - start)
    assert found.pairs["c0", "c1"].value == pytest.approx(total)


def sum_of(*sizes: int) -> NoisyMoments:
    one, two = clinics(*sizes).values()
    return one + two


def test_intervals_are_those_of_the_noise() -> None:
    quiet, loud = (
        worth(clinics(800, 800, sigma=s), clinics(800, 800, sigma=s), discriminant, "auroc", np.random.default_rng(0))
        for s in (0.0, 2.0)
    )
    assert quiet.together.high - quiet.together.low < 1e-9
    assert loud.together.high - loud.together.low > 0.01


def test_too_few_and_too_many_are_refused() -> None:
    for count in (1, MOST_CLINICS + 1):
        some = clinics(*[20] * count)
        with pytest.raises(DataError, match=f"{count} clinics: what each added can be told of 2 to 12"):
            worth(some, some, discriminant, "auroc", np.random.default_rng(0))


def test_the_judge_is_nearly_right() -> None:
    x, y = units(9)
    head, fresh = discriminant(moments_of(x, y)), units(10, 20_000)
    scores = fresh[0] @ head.weight
    moments = moments_of(*fresh)
    assert judged(head, moments, moments, "auroc") == pytest.approx(roc_auc_score(fresh[1], scores), abs=0.01)
    line = np.polynomial.Polynomial.fit(scores, fresh[1], 1)
    error = float(((line(scores) - fresh[1]) ** 2).mean())
    assert judged(head, moments, moments, "squared_error") == pytest.approx(error, rel=0.01)
    assert judged(None, moments, moments, "squared_error") == pytest.approx(fresh[1].var(), rel=0.01)
