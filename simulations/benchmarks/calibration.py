"""Whether what is promised of a model's output is kept: operating points and calibration slopes, at several ε.

    python -m melfed.simulations.benchmarks.calibration [--federations 200] [--melanomas 1500] [--json]

Each federation's clinics hold patients whose scores are normal in each class (a part of validation, one of test), and
release one noised histogram of them, with the noise that a study of this ε releases one with; at ε inf exact ones. The
truth is that of the normal distributions. For operating points melanomas spread more widely than others; for slopes
both spread alike, where the logarithm of the odds is a line and the scores are shifted and stretched such that their
logits are it (raw slope: the truth is 1) or not (mapped: those of the map made of validation, on the test part).

Columns: federations in which there was a threshold (or a slope); how often the interval held the truth, of those and of
all; the mean. `mapped, own truth` is the slope that this very map has; `mapped, 1` has an interval that counts the
uncertainty of the map as well.
"""

import json
import math
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer
from scipy.stats import norm

from melfed.client.privacy.accounting import noise_multiplier
from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.common.metrics.calibration import calibration_metrics
from melfed.common.metrics.calibration_map import Calibration, calibration_map
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import Interval
from melfed.common.metrics.noisy_histogram import Histogram, pooled
from melfed.common.metrics.operating_point import Kind, operating_point
from melfed.common.metrics.score_edges import edges_around
from melfed.common.study.evaluation_noise import EVALUATION_SHARE

EPSILONS = (1.0, 3.0, math.inf)
POINTS: tuple[tuple[Kind, float], ...] = (("sensitivity", 0.95), ("sensitivity", 0.9), ("specificity", 0.9))
OTHERS = 9
"""Patients without a melanoma to each with one."""
WIDER = 1.25
"""Spread of melanomas' scores for operating points, in that of the others'."""
DELTA = 1e-5


class Scores:
    """Normal scores of both classes, one patient an image."""

    def __init__(self, distance: float, spread: float, scale: float, shift: float) -> None:
        """Take melanomas' mean and spread, those of others being 0 and 1, and how logits follow from that."""
        self.distance, self.spread, self.scale, self.shift = distance, spread, scale, shift

    def histogram(
        self, melanomas: int, clinics: int, sigma: float, rng: np.random.Generator, noise: NoiseSource
    ) -> Histogram:
        """Return what clinics release of so many melanomas in all."""
        y = np.arange(melanomas * (1 + OTHERS)) % (1 + OTHERS) == 0
        z = rng.normal(size=len(y)) * np.where(y, self.spread, 1.0) + np.where(y, self.distance, 0.0)
        owner, x = rng.integers(0, clinics, len(y)), self.shift + self.scale * z
        parts = [
            (x[owner == i], y[owner == i], [f"{i}-{j}" for j in np.flatnonzero(owner == i)]) for i in range(clinics)
        ]
        if not sigma:
            return pooled([ScoreHistogram.from_scores(*part) for part in parts])
        edges = edges_around(self.shift + 0.7 * self.scale, self.scale / 1.5)
        return pooled([noised_histograms({"test": part}, sigma, noise, edges)["test"] for part in parts])

    def truth(self, kind: Kind, logit: float) -> float:
        """Return what a threshold does."""
        z = (logit - self.shift) / self.scale
        return float(norm.sf((z - self.distance) / self.spread) if kind == "sensitivity" else norm.cdf(z))


def federations(
    epsilon: float, number: int, melanomas: int, clinics: int, seed: int
) -> Iterator[tuple[str, float | None, Interval, float]]:
    """Yield of each federation and quantity: its name, its truth, the interval, and what the mean is taken of.

    The truth is None where there is no interval.
    """
    sigma = 0.0 if math.isinf(epsilon) else noise_multiplier(EVALUATION_SHARE * epsilon, DELTA, 1.0, 1)
    rng = np.random.default_rng(seed)
    noise = NoiseSource(rng.bytes)  # so that a seed gives the same figures
    for _ in range(number):
        distance = float(rng.uniform(1.4, 2.4))
        wide = Scores(distance, WIDER, 1.0, float(rng.uniform(-3, 0)))
        validation = wide.histogram(melanomas, clinics, sigma, rng, noise)
        for kind, wanted in POINTS:
            point = operating_point(validation, kind, wanted)
            found: Interval = getattr(point.validation, kind)
            truth = None if point.logit is None else wide.truth(kind, point.logit)
            yield point.name, truth, found, math.nan if truth is None else truth
        # The logarithm of the odds of a normal z is a line where both classes spread alike.
        line = distance, -distance * distance / 2 - math.log(OTHERS)
        alike = Scores(distance, 1.0, *line)
        test = alike.histogram(melanomas, clinics, sigma, rng, noise)
        raw = calibration_metrics(test).slope
        yield "raw slope", None if raw.value is None else 1.0, raw, raw.value or math.nan
        yield from _mapped(alike.histogram(melanomas, clinics, sigma, rng, noise), test)


def _mapped(validation: Histogram, test: Histogram) -> Iterator[tuple[str, float | None, Interval, float]]:
    found = calibration_map(validation)
    if not isinstance(found, Calibration):
        yield "mapped slope, own truth", None, Interval(), math.nan
        yield "mapped slope, 1", None, Interval(), math.nan
        return
    slope = calibration_metrics(test, found).slope
    value, low, high = slope.value, slope.low, slope.high
    if value is None or low is None or high is None or found.knots:
        yield "mapped slope, own truth", None, Interval(), math.nan
        yield "mapped slope, 1", None, Interval(), math.nan
        return
    yield "mapped slope, own truth", 1 / found.slope, slope, value
    relative = math.hypot((high - low) / 2 / value, 1.96 * math.sqrt(found.covariance[1][1]) / found.slope)
    both = Interval(value=value, low=value * (1 - relative), high=value * (1 + relative))
    yield "mapped slope, 1", 1.0, both, value


def measure(epsilons: tuple[float, ...], number: int, melanomas: int, clinics: int, seed: int) -> list[dict[str, Any]]:
    """Return a row an ε and quantity."""
    rows = []
    for epsilon in epsilons:
        found: dict[str, list[tuple[float | None, Interval, float]]] = {}
        for name, truth, interval, value in federations(epsilon, number, melanomas, clinics, seed):
            found.setdefault(name, []).append((truth, interval, value))
        for name, each in found.items():
            known = [row for row in each if row[0] is not None]
            limits = [
                (t, i.low, i.high) for t, i, _ in known if t is not None and i.low is not None and i.high is not None
            ]
            held = sum(low <= truth <= high for truth, low, high in limits)
            values = [value for _, _, value in known]
            rows.append(
                {
                    "epsilon": None if math.isinf(epsilon) else epsilon,
                    "quantity": name,
                    "federations": number,
                    "known": len(known),
                    "covered": held / len(known) if known else None,
                    "mean": float(np.mean(values)) if values else None,
                    "width": float(np.mean([high - low for _, low, high in limits])) if limits else None,
                }
            )
    return rows


def main(
    federations: Annotated[int, typer.Option(min=1, help="simulated, for each ε")] = 200,
    melanomas: Annotated[int, typer.Option(min=2, help="patients with one, in each part of a federation")] = 1500,
    clinics: Annotated[int, typer.Option(min=1)] = 5,
    epsilon: Annotated[list[float] | None, typer.Option(help="of the whole study; inf: no noise")] = None,
    seed: int = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure whether promised sensitivities and calibration slopes are kept."""
    rows = measure(tuple(epsilon or EPSILONS), federations, melanomas, clinics, seed)
    if as_json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    for row in rows:
        what = f"ε {row['epsilon'] or 'inf'}, {row['quantity']}: {row['known']} of {row['federations']} known"
        told = (
            ""
            if row["covered"] is None
            else f", {row['covered']:.3f} covered, mean {row['mean']:.3f}, width {row['width']:.3f}"
        )
        sys.stdout.write(f"{what}{told}\n")


if __name__ == "__main__":
    typer.run(main)
