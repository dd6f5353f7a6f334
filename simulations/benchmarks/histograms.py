"""What score bins cost in AUROC and AUPRC: several ways to choose them, on normal scores of several scales and shifts.

    python -m melfed.simulations.benchmarks.histograms [--clinics 10] [--images 2000] [--sigma 1.5] [--seed 0] [--json]

Without noise: `fixed` has 1,024 bins over logits from -12 to 12, as melfed 0.1 had; `4096` and `256` are bins that
follow the scores, at most so many a clinic. With noise: `fixed` has edges around 0, `model` those of a head whose norm
is half the scores' spread and whose bias lies three spreads off. An error is that of the value against the scores.
"""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer
from sklearn.metrics import average_precision_score, roc_auc_score

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.intervals import FloatArray
from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import Histogram, pooled
from melfed.common.metrics.score_edges import edges_around, score_edges

SCALES, SHIFTS = (1e-4, 1.0, 1e4), (-30.0, 0.0, 30.0)
_OLD: FloatArray = np.linspace(-12.0, 12.0, 1023)
Scores = tuple[FloatArray, FloatArray, list[str]]


def ways(parts: list[Scores], scale: float, shift: float, sigma: float) -> Iterator[tuple[str, Histogram]]:
    """Yield each way's pooled histogram."""
    fixed = [(np.append(_OLD, 12.1)[np.searchsorted(_OLD, x, side="right")], y, g) for x, y, g in parts]
    yield "fixed", pooled(ScoreHistogram.from_scores(*part) for part in fixed)
    for most in (4096, 256):
        yield str(most), pooled(ScoreHistogram.from_scores(*part, most) for part in parts)
    head = {"head.weight": np.array([scale / 2]), "head.bias": np.array([shift - 3 * scale])}
    for name, edges in (("fixed", edges_around(0.0, 1.0)), ("model", score_edges(head))):
        noised = [noised_histograms({"test": part}, sigma, NoiseSource(), edges)["test"] for part in parts]
        yield f"noised, {name}", pooled(noised)


def measure(clinics: int, images: int, sigma: float, seed: int) -> list[dict[str, Any]]:
    """Return a row a way, scale and shift: exact and found values, with the AUROC's interval."""
    rows = []
    for scale in SCALES:
        for shift in SHIFTS:
            rng = np.random.default_rng(seed)
            y = (rng.random(clinics * images) < 0.1).astype(np.float64)
            x = shift + scale * (rng.normal(size=len(y)) * (1 + 0.2 * y) + 1.5 * y)
            parts = [(x[i::clinics], y[i::clinics], [f"{i}-{j}" for j in range(images)]) for i in range(clinics)]
            exact = {"auroc": float(roc_auc_score(y, x)), "auprc": float(average_precision_score(y, x))}
            for way, histogram in ways(parts, scale, shift, sigma):
                m = metrics_of(histogram)
                found = {"auroc": m.auroc.value, "auprc": m.auprc.value, "low": m.auroc.low, "high": m.auroc.high}
                rows.append({"way": way, "scale": scale, "shift": shift, "exact": exact, **found})
    return rows


def main(
    clinics: Annotated[int, typer.Option(min=1)] = 10,
    images: Annotated[int, typer.Option(min=1, help="of each clinic")] = 2000,
    sigma: Annotated[float, typer.Option(min=0, help="noise multiplier of noised histograms")] = 1.5,
    seed: int = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure what score bins cost."""
    rows = measure(clinics, images, sigma, seed)
    if as_json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    for row in rows:
        values = [f"{row[key]:.4f}" if row[key] is not None else "-" for key in ("auroc", "low", "high", "auprc")]
        exact = f"{row['exact']['auroc']:.4f} {row['exact']['auprc']:.4f}"
        sys.stdout.write(
            f"{row['way']:14} x {row['scale']:g} + {row['shift']:g}: AUROC {values[0]} ({values[1]}-{values[2]}), "
            f"AUPRC {values[3]}; exact {exact}\n"
        )


if __name__ == "__main__":
    typer.run(main)
