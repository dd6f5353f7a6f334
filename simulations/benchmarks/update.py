"""The way of an update: a round of a large model, deployed, against the same round in simulation; and memory.

Three clinics and their coordinator, by melfed's own commands on loopback, train ResNet-50 whole from random weights on
a few small images, so that what counts is the way of its 94 MB; then the same sealed study is simulated.

    python -m melfed.simulations.benchmarks.update [--backbone resnet50] [--rounds 4] [--clinics 2] [--compression int8]
        [--json]
"""

import json
import signal
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from melfed.simulations.benchmarks.deployment import LARGE_STUDY, large_part, machine
from melfed.simulations.benchmarks.deployment_stack import has_nginx

SERVERAPP = "server: serverapp"


def study_of(backbone: str, rounds: int, compression: str) -> str:
    """Return the study's text."""
    text = LARGE_STUDY.replace("backbone: resnet50", f"backbone: {backbone}")
    return text.replace("{rounds: 2,", f"{{rounds: {rounds}, compression: {compression},")


def summed_up(found: dict[str, Any]) -> dict[str, Any]:
    """Return seconds of a round after the first, deployed (ours) and simulated, their ratio, and memory in models.

    Args:
        found: of `melfed.simulations.benchmarks.deployment.large_part`.
    """
    ours, model = statistics.median(found["round_seconds"][1:]), found["model_mb"]
    return {
        "ours": ours,
        "reference": found["simulated_round"],
        "ratio": ours / found["simulated_round"],
        "model_mb": model,
        "peak_models": {name: peak / model for name, peak in found["peak_mb"].items()},
        "database_models": found["database_mb_peak"] / model,
        "files_models": found["objects_mb_peak"] / model,
        "split": found["second_round"],
    }


def main(
    backbone: Annotated[str, typer.Option(help="Of the model.")] = "resnet50",
    rounds: Annotated[int, typer.Option(min=2, help="The first one does not count.")] = 4,
    compression: Annotated[str, typer.Option(help="none, float16 or int8.")] = "none",
    clinics: Annotated[int, typer.Option(min=1, max=3, help="How many.")] = 3,
    folder: Annotated[Path | None, typer.Option(help="Kept for a look at logs; else a temporary one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the way of an update."""
    if not has_nginx():
        raise typer.BadParameter("nginx is not installed")
    # All daemons have sessions of their own: whoever ends this must not leave them behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="melfed-") as temporary:
        place = (folder or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        found = large_part(place, study_of(backbone, rounds, compression), clinics)
    result = {"machine": machine(), **summed_up(found)}
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    print(f"a model of {result['model_mb']:.1f} MB, {clinics} clinics, rounds after the first")
    print(f"deployed:  {result['ours']:.2f} s")
    print(f"simulated: {result['reference']:.2f} s")
    print(f"ratio:     {result['ratio']:.2f}  (to reach: at most 2)")
    print(f"database:  {result['database_models']:.2f} models  (to reach: below 2)")
    print(f"its files: {result['files_models']:.2f} models, of all replies and the request")
    print(f"ServerApp: {result['peak_models'][SERVERAPP]:.2f} models at most  (to reach: at most 5)")
    for name, peak in result["peak_models"].items():
        print(f"{name:28} {peak:.1f} models")


if __name__ == "__main__":
    typer.run(main)
