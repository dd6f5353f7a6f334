"""The weighted mean of a round against a plain sum of NumPy's, and its memory.

Both average the same updates with the same weights, taken in turn in one process: ours as the coordinator does it, in
whole numbers, whatever the order; the reference adds `update * weight` in float64, tensor by tensor, as one would write
it down, and has other bits in another order. What counts is the median of the ratios of neighbouring runs.

    python -m melfed.simulations.benchmarks.mean [--updates 24] [--megabytes 20] [--json]
"""

import json
import os
import statistics
import sys
import tracemalloc
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer

from melfed.common.aggregation.fixed_point import fixed_point_for
from melfed.common.aggregation.weighted_mean import WeightedMean
from melfed.common.tensors import Tensors

TENSORS = 10
SPREAD = 0.05
"""Standard deviation of the values, about that of a network's weights."""


def updates_of(count: int, megabytes: float) -> tuple[list[Tensors], list[int]]:
    """Return updates of one model and the clinics' weights."""
    generator = np.random.default_rng(0)
    size = int(megabytes * 1e6 / 4 / TENSORS)
    updates: list[Tensors] = [
        {f"tensor {k}": generator.normal(0, SPREAD, size).astype(np.float32) for k in range(TENSORS)}
        for _ in range(count)
    ]
    return updates, [int(weight) for weight in generator.integers(100, 5000, count)]


def ours(updates: list[Tensors], weights: list[int]) -> Tensors:
    """Return the mean as the coordinator computes it."""
    mean = WeightedMean(fixed_point_for(updates[0], sum(weights)))
    for update, weight in zip(updates, weights, strict=True):
        mean.add(update, weight)
    return mean.mean()


def plain(updates: list[Tensors], weights: list[int]) -> Tensors:
    """Return the mean by a sum in float64."""
    total = {name: np.zeros(tensor.shape) for name, tensor in updates[0].items()}
    for update, weight in zip(updates, weights, strict=True):
        for name, tensor in update.items():
            total[name] += tensor.astype(np.float64) * weight
    return {name: (tensor / sum(weights)).astype(np.float32) for name, tensor in total.items()}


def peak_models(updates: list[Tensors], weights: list[int]) -> float:
    """Return our peak of memory beside the updates that came, in models of float32."""
    tracemalloc.start()
    try:
        ours(updates, weights)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak / sum(tensor.nbytes for tensor in updates[0].values())


def measure(count: int, megabytes: float, repeats: int) -> dict[str, Any]:
    """Return seconds of both, the ratio, whether another order has the same bits, and the memory."""
    updates, weights = updates_of(count, megabytes)
    expected, got = plain(updates, weights), ours(updates, weights)
    turned = ours(updates[::-1], weights[::-1])
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    for repeat in range(repeats):
        both = [("ours", ours), ("reference", plain)]
        for name, mean in both if repeat % 2 else both[::-1]:
            started = perf_counter()
            mean(updates, weights)
            seconds[name].append(perf_counter() - started)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "updates": count,
        "megabytes": megabytes,
        "ours": statistics.median(seconds["ours"]),
        "reference": statistics.median(seconds["reference"]),
        "ratio": statistics.median(a / b for a, b in zip(seconds["ours"], seconds["reference"], strict=True)),
        "same_bits_in_another_order": all(got[name].tobytes() == turned[name].tobytes() for name in got),
        "largest_difference": max(float(np.abs(got[name] - expected[name]).max()) for name in got),
        "peak_models": peak_models(updates, weights),
    }


def main(
    updates: Annotated[int, typer.Option(min=2, help="Updates of a round.")] = 24,
    megabytes: Annotated[float, typer.Option(min=0.01, help="Of each update.")] = 20.0,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each, taken in turn.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the weighted mean."""
    result = measure(updates, megabytes, repeats)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    print(f"{updates} updates of {megabytes:g} MB on {result['cores']} cores")
    print(f"ours:          {result['ours'] * 1e3:.0f} ms")
    print(f"plain sum:     {result['reference'] * 1e3:.0f} ms")
    print(f"ratio:         {result['ratio']:.2f}  (to reach: at most 1.3)")
    print(f"peak:          {result['peak_models']:.2f} models beside the updates (to reach: at most 3)")
    print(f"another order: {'the same bits' if result['same_bits_in_another_order'] else 'OTHER BITS'}")


if __name__ == "__main__":
    typer.run(main)
