"""What a deployed federation costs: three clinics and a coordinator, started by melfed's commands, on loopback.

A round is held against the same round in simulation, and taken apart; further parts are asked for by their flags.

    python -m melfed.simulations.benchmarks.deployment [--rounds 50] [--memory 200] [--large] [--json FILE]

The study is the README's first one: private, the head of EfficientNet-Lite0 on synthetic lesions. `--large` has another
one, without privacy: ResNet-50 from random weights, all of it, on a few small images, so that what counts is the way of
its 94 MB.
"""

import json
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from melfed.simulations.benchmarks.deployment_stack import CLINICS, Stack, has_nginx, rows
from melfed.simulations.benchmarks.deployment_tables import show
from melfed.simulations.benchmarks.memory import MEGABYTE, Memory, Peaks, by_role, growth
from melfed.simulations.benchmarks.round_timing import clinic_parts, round_seconds, split, timings

STUDY = Path(__file__).parents[1] / "studies" / "deployment.yaml"
IMAGES, LARGE_IMAGES = 900, 120
LARGE_STUDY = """\
name: large
data: {image_size: 32}
partition: {minimum_images: 4, validation: 0.1, test: 0.1}
model: {backbone: resnet50, pretrained: false, train: full}
training: {optimizer: sgd, learning_rate: 0.01, warmup_steps: 0, augment: false, batch_size: 32}
federation: {rounds: 2, deadline_seconds: 1500}
"""
MARKS = (10, 50, 100)
"""After so many rounds memory is looked at, before the last."""


def rounds_part(stack: Stack, rounds: int) -> dict[str, Any]:
    """Run the study deployed and simulated; return seconds of both, and where the deployed round's go."""
    study = stack.seal(STUDY, f"federation.rounds={rounds}")
    seconds = stack.run(study, "rounds", every=30.0)
    identity = (stack.run_folder("rounds") / "run-id").read_text().strip()
    deployed = round_seconds(stack.server_audit(), identity)
    clinics = {clinic: clinic_parts(timings(stack.log(clinic)), stack.clinic_audit(clinic)) for clinic in CLINICS}
    simulated = [
        row["seconds"] for row in rows(stack.simulate(study, "rounds") / "metrics.jsonl") if row["event"] == "round"
    ]
    summary = json.loads((stack.folder / "simulated-rounds" / "summary.json").read_text())
    later = sorted(simulated[1:])
    return {
        "deployed": split(deployed, clinics),
        "simulated_round": later[len(later) // 2],
        "rounds": rounds,
        "run_seconds": seconds,
        "simulated_run_seconds": summary["seconds"],
        "bytes_a_round": summary["rounds"][-1]["bytes_up"] + summary["rounds"][-1]["bytes_down"],
    }


def memory_part(stack: Stack, rounds: int) -> dict[str, Any]:
    """Run the study for many rounds; return each process's memory after some of them, MB."""
    marks = [mark for mark in (*MARKS, rounds) if mark <= rounds]
    # A few more, so that the ServerApp is still there after the last that counts.
    study = stack.seal(STUDY, f"federation.rounds={rounds + 3}")
    seen: dict[int, dict[str, Memory]] = {}

    def look() -> None:
        done = stack.round("memory")
        for mark in marks:
            if done >= mark and mark not in seen:
                seen[mark] = by_role(daemon.pid for daemon in stack.daemons.values())

    seconds = stack.run(study, "memory", look, every=0.5)
    first, last = ({name: each.proportional for name, each in seen[mark].items()} for mark in (marks[0], marks[-1]))
    return {
        "rounds": rounds,
        "run_seconds": seconds,
        "database_bytes": stack.database_bytes(),
        "after": {
            str(mark): {
                name: {"rss_mb": each.resident / MEGABYTE, "pss_mb": each.proportional / MEGABYTE}
                for name, each in found.items()
            }
            for mark, found in seen.items()
        },
        "grown_mb": {name: change / MEGABYTE for name, change in growth(first, last).items()},
    }


def large_part(folder: Path, text: str = LARGE_STUDY, clinics: int = len(CLINICS)) -> dict[str, Any]:
    """Run a large study in a stack of its own; return seconds a round, peaks of memory, and the database's size.

    Args:
        folder: empty.
        text: the study.
        clinics: how many, at most three.
    """
    study = folder / "large.yaml"
    study.write_text(text)
    (folder / "stack").mkdir()
    with Stack(folder / "stack", LARGE_IMAGES, clinics) as stack:
        stack.start()
        sealed = stack.seal(study)
        peaks, database, objects = Peaks(), [0], [0]

        def look() -> None:
            peaks.look(daemon.pid for daemon in stack.daemons.values())
            database[0] = max(database[0], stack.database_bytes())
            objects[0] = max(objects[0], stack.object_bytes())

        seconds = stack.run(sealed, "large", look)
        events = [row for row in rows(stack.run_folder("large") / "metrics.jsonl") if row["event"] == "round"]
        identity = (stack.run_folder("large") / "run-id").read_text().strip()
        walls = round_seconds(stack.server_audit(), identity)
        parts = {
            clinic: clinic_parts(timings(stack.log(clinic)), stack.clinic_audit(clinic)) for clinic in stack.clinics
        }
        simulated = [
            row["seconds"] for row in rows(stack.simulate(sealed, "large") / "metrics.jsonl") if row["event"] == "round"
        ]
        return {
            "model_mb": events[-1]["bytes_down"] / len(stack.clinics) / MEGABYTE,
            "round_seconds": [row["seconds"] for row in events],
            "second_round": split(walls, parts),
            "simulated_round": simulated[-1],
            "run_seconds": seconds,
            "peak_mb": {name: each.peak / MEGABYTE for name, each in peaks.roles.items()},
            "database_mb_peak": database[0] / MEGABYTE,
            "objects_mb_peak": objects[0] / MEGABYTE,
            "database_mb_end": stack.database_bytes() / MEGABYTE,
        }


def machine() -> dict[str, Any]:
    """Return what this machine is, and how busy it is."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def measure(rounds: int, memory: int, large: bool, folder: Path) -> dict[str, Any]:
    """Measure all parts that are asked for, below an empty folder.

    Raises:
        RuntimeError: a command failed.
    """
    result: dict[str, Any] = {"machine": machine()}
    (folder / "stack").mkdir()
    with Stack(folder / "stack", IMAGES) as stack:
        result["start_seconds"] = stack.start()
        result["rounds"] = rounds_part(stack, rounds)
        if memory:
            result["memory"] = memory_part(stack, memory)
    if large:
        (folder / "large").mkdir()
        result["large"] = large_part(folder / "large")
    return result


def main(
    rounds: Annotated[int, typer.Option(min=3, max=1000, help="Rounds that are taken apart.")] = 5,
    memory: Annotated[int, typer.Option(min=0, max=10_000, help="Rounds after which memory is looked at; 0: not.")] = 0,
    large: Annotated[bool, typer.Option("--large", help="A model of 94 MB as well.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Kept for a look at logs; else a temporary one.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Where the figures go.")] = None,
) -> None:
    """Measure a deployed federation of three clinics."""
    if not has_nginx():
        raise typer.BadParameter("nginx is not installed")
    # All daemons have sessions of their own: whoever ends this must not leave them behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="melfed-") as temporary:
        place = (folder or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        result = measure(rounds, memory, large, place)
    if as_json is not None:
        as_json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    show(result)


if __name__ == "__main__":
    typer.run(main)
