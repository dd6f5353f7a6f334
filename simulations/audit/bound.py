"""What correct guesses about canaries prove: a lower bound on ε at a stated confidence.

Steinke, Nasr & Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023, arXiv 2305.08846. Each of m
canaries takes part by a fair coin of its own; who looks at the outcome guesses r of the coins and abstains on the rest.
Against an (ε, 0)-private mechanism the number of correct guesses is at most that of r coins which each fall right with
probability e^ε / (1 + e^ε), however the guesses are made; δ adds a little to the tail of that binomial distribution.
"""

import math

import numpy as np
import numpy.typing as npt

_LARGEST_EPSILON = 64.0
"""Beyond what any number of canaries could prove: it would take e^64 of them."""
_BISECTIONS = 60


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return a bound on the probability of so many correct guesses, or more, if the mechanism were (ε, δ)-private.

    With W binomial(r, e^ε / (1 + e^ε)): P[W ≥ v] + 2mδ · max over i ≥ 1 of P[v - i ≤ W < v] / i, at most 1 (theorem for
    approximate differential privacy of arXiv 2305.08846). Neighbours differ by one canary, added or removed.

    Args:
        canaries: m, how many there were, each in or out by a fair coin.
        guesses: r, how many coins were guessed; fixed before the outcome was seen.
        correct: v, how many of the guesses were right.
        epsilon: ε, at least 0.
        delta: δ.

    Raises:
        ValueError: not 0 ≤ correct ≤ guesses ≤ canaries, or ε or δ out of range.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} correct of {guesses} guesses about {canaries} canaries")
    if epsilon < 0 or not 0 <= delta <= 1:
        raise ValueError(f"epsilon {epsilon}, delta {delta}")
    if correct == 0:
        return 1.0
    mass = _binomial(guesses, epsilon)
    below = np.cumsum(mass[:correct][::-1]) / np.arange(1, correct + 1)
    return min(1.0, float(mass[correct:].sum() + 2 * canaries * delta * below.max()))


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """Return an ε that the mechanism exceeds at this δ with at least this confidence; 0 where nothing is proven.

    A mechanism that is (ε, δ)-private gives a bound above ε with probability 1 - confidence at most. The arguments and
    errors are those of `p_value`.
    """
    largest_p = 1 - confidence
    low, high = 0.0, _LARGEST_EPSILON
    if p_value(canaries, guesses, correct, low, delta) > largest_p:
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if p_value(canaries, guesses, correct, middle, delta) <= largest_p:
            low = middle
        else:
            high = middle
    return low


def provable(canaries: int, guesses: int, delta: float, confidence: float = 0.95) -> float:
    """Return the largest ε that so many guesses can prove: the bound where all of them are right."""
    return lower_bound(canaries, guesses, guesses, delta, confidence)


def _binomial(trials: int, epsilon: float) -> npt.NDArray[np.float64]:
    """Return the probabilities of 0 to `trials` successes of probability e^ε / (1 + e^ε) each, shape (trials + 1,)."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    successes = np.arange(trials + 1)
    success = -math.log1p(math.exp(-epsilon))
    chosen = factorials[-1] - factorials - factorials[::-1]
    mass: npt.NDArray[np.float64] = np.exp(chosen + trials * success - (trials - successes) * epsilon)
    return mass
