"""The cost of federation: a federated run's rounds against the same work in one plain training loop.

Both train the same network on the same images as often, validate as often, on the same cores; the federated one divides
them over clinics and carries every tensor through Flower twice a round. The engine's start is told apart.

    python -m melfed.simulations.benchmarks.federation [--json]
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

STUDY = """\
name: federation-cost
data: {image_size: 96, phantom: {images: 2400, clinics: 4}}
partition: {by: iid, clinics: 4}
model: {backbone: efficientnet_lite0, train: full}
training: {learning_rate: 3.0e-4, batch_size: 32}
federation: {rounds: 4}
"""


def measure(repeats: int) -> dict[str, Any]:
    """Return seconds of both, their ratio, and the bytes a round; the best of some repeats, taken in turn."""
    from melfed.common.data.images.store import default_cache
    from melfed.common.model.classifier import trainable_tensors
    from melfed.common.study.build import build_study_classifier
    from melfed.common.study.file import recorded_study
    from melfed.common.study.protocol import PhantomSection
    from melfed.simulations.partition.virtual_clinics import divide, phantom_folder
    from melfed.simulations.run import simulate

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "study.yaml").write_text(STUDY)
        study = recorded_study(folder / "study.yaml")
        section = study.data.phantom or PhantomSection()
        virtual = divide(study, phantom_folder(study, section, default_cache()), default_cache())
        times: dict[str, list[float]] = {"federated": [], "central": [], "start": []}
        rounds: tuple[Any, ...] = ()
        for repeat in range(repeats):
            for mode in ("federated", "central"):
                changed = study.with_changes("federation", mode=mode)
                summary = simulate(changed, virtual, folder / f"{mode}-{repeat}", Quiet())
                # The first round holds the start of the engine's worker processes; the plain loop's is dropped as well.
                times[mode].append(sum(row.seconds for row in summary.rounds[1:]))
                if mode == "federated":
                    rounds = summary.rounds
                    times["start"].append(summary.seconds - sum(row.seconds for row in summary.rounds))
        values = sum(tensor.size for tensor in trainable_tensors(build_study_classifier(study)).values())
    payload = values * 4 * len(virtual.clinics) * 2
    best = {mode: min(seconds) for mode, seconds in times.items()}
    return {
        "cores": os.cpu_count(),
        "federated_seconds": best["federated"],
        "central_seconds": best["central"],
        "ratio": best["federated"] / best["central"],
        "engine_start_and_end_seconds": best["start"],
        "bytes_a_round": rounds[-1].bytes_up + rounds[-1].bytes_down,
        "bytes_ratio": (rounds[-1].bytes_up + rounds[-1].bytes_down) / payload,
    }


class Quiet:
    """An observer that draws nothing."""

    def __getattr__(self, name: str) -> Any:
        """Answer every call with nothing."""
        return lambda *_arguments: None


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each, taken in turn.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the cost of federation."""
    started = monotonic()
    result = measure(repeats)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    print(f"three rounds, federated: {result['federated_seconds']:.1f} s")
    print(f"the same in one loop:    {result['central_seconds']:.1f} s")
    print(f"ratio:                   {result['ratio']:.2f}  (to reach: at most 1.25)")
    print(f"engine, start and end:   {result['engine_start_and_end_seconds']:.1f} s")
    print(f"bytes a round / tensors: {result['bytes_ratio']:.4f}  (to reach: at most 1.05)")
    print(f"measured in {monotonic() - started:.0f} s on {result['cores']} cores")


if __name__ == "__main__":
    typer.run(main)
