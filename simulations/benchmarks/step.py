"""The time of a private step against that of another version of melfed.

Each version runs in a process of its own and takes steps in turn with the other; what counts is the median of the
ratios of neighbouring steps. Wall-clock time, and processor time, which other programs on the machine disturb less.

    python -m melfed.simulations.benchmarks.step --against PATH [--json]     # PATH: a checkout of the other version
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import IO, Annotated, Any, Final, cast

import typer

from melfed.simulations.benchmarks.checkouts import module_name, search_path

MODELS: Final = ["mobilenet_v2", "squeezenet1_1", "resnet18", "efficientnet_b0", "densenet121"]

HERE: Final = Path(__file__).resolve().parents[2]

STEPS: Final = """
import importlib, json, sys, time, warnings
warnings.simplefilter("ignore")
make_step = importlib.import_module(sys.argv[5]).make_step
step = make_step("book-keeping", sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
step()
for _ in sys.stdin:
    wall, processor = time.perf_counter(), time.process_time()
    step()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]), flush=True)
"""
"""What runs in each version's process: a step for every line that comes in."""


def compare(against: Path, model: str, part: str, size: int, batch: int, pairs: int) -> dict[str, Any]:
    """Return one row: median seconds of a step, here and there, and the median ratios.

    Args:
        against: a checkout of the other version.
        model: a backbone.
        part: what learns.
        size: side of the images in pixels.
        batch: images a step, each of a patient of its own.
        pairs: how many steps of each.
    """
    command = [sys.executable, "-c", STEPS, model, str(size), part, str(batch)]
    processes = [
        subprocess.Popen(  # noqa: S603 (melfed itself)
            [*command, module_name(tree, "simulations.benchmarks.gradients")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(search_path(tree))},
        )
        for tree in (HERE, against)
    ]
    try:
        seconds: list[list[list[float]]] = []
        for pair in range(pairs + 1):
            order = processes if pair % 2 else processes[::-1]
            found = {id(process): _step(process) for process in order}
            seconds.append([found[id(process)] for process in processes])
    finally:
        for process in processes:
            process.kill()
            process.wait()
    here, there = ([row[side] for row in seconds[1:]] for side in (0, 1))
    row: dict[str, Any] = {"model": model, "part": part, "size": size, "batch": batch, "pairs": pairs}
    for kind, name in enumerate(("wall", "processor")):
        row[f"{name}_here"] = statistics.median(value[kind] for value in here)
        row[f"{name}_there"] = statistics.median(value[kind] for value in there)
        row[f"{name}_ratio"] = statistics.median(a[kind] / b[kind] for a, b in zip(here, there, strict=True))
    return row


def _step(process: subprocess.Popen[str]) -> list[float]:
    stdin, stdout = cast("IO[str]", process.stdin), cast("IO[str]", process.stdout)
    stdin.write("\n")
    stdin.flush()
    return cast("list[float]", json.loads(stdout.readline()))


def main(
    against: Annotated[Path, typer.Option(help="A checkout of the other version.", exists=True, file_okay=False)],
    models: Annotated[list[str] | None, typer.Option(help="Networks; repeat the option for several.")] = None,
    parts: Annotated[list[str] | None, typer.Option(help="What learns: full, affine, last_block, head.")] = None,
    size: Annotated[int, typer.Option(min=32, help="Side of the images in pixels.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 16,
    pairs: Annotated[int, typer.Option(min=1, help="Steps of each version, taken in turn.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the time of a private step with another version's."""
    rows = []
    for model in models or MODELS:
        for part in parts or ["full", "head"]:
            row = compare(against.resolve(), model, part, size, batch, pairs)
            rows.append(row)
            if not as_json:
                print(
                    f"{model:18} {part:5} {row['wall_here'] * 1e3:8.1f} ms against {row['wall_there'] * 1e3:8.1f} ms: "
                    f"{row['wall_ratio']:.3f} (processor time: {row['processor_ratio']:.3f})",
                    flush=True,
                )
    if as_json:
        sys.stdout.write(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
