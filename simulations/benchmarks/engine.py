"""The engine's own cost: a simulation of many small clinics against a plain loop, and against Flower's simulation.

All are whole commands over the same images, taken in turn; decoding the images, which is done once a machine, is not
counted. What the coordinator's part costs is measured with clinics that answer at once, whatever they are asked.

    python -m melfed.simulations.benchmarks.engine [--clinics 1000] [--rounds 2] [--memory-against 100] [--json]
"""

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from time import monotonic, process_time
from typing import Annotated, Any

import numpy as np
import typer
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from melfed.common.data.images.store import default_cache
from melfed.common.messages import COUNTS, IDENTITY, METRICS, PACKED, REQUEST, TENSORS, TEST, VALIDATION, pack
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.file import recorded_study
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.context import Conduct
from melfed.server.federation.observer import Silent
from melfed.server.federation.rounds import Rounds
from melfed.server.flower.channel import FlowerChannel
from melfed.server.runs.folder import RunFolder
from melfed.simulations.benchmarks import engine_references
from melfed.simulations.benchmarks.engine_references import HELD_OUT, PIXELS, STUDY, TARGETS
from melfed.simulations.benchmarks.memory import MEGABYTE, run
from melfed.simulations.partition.virtual_clinics import divide

SIZE = 32
PROTOCOL = """\
name: engine-cost
data: {{image_size: {size}}}
partition: {{by: source, minimum_images: 1, validation: {held}, test: {held}}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{learning_rate: 1.0e-3, batch_size: 8, warmup_steps: 0, schedule: constant, augment: false}}
federation: {{rounds: {rounds}}}
resources: {{cpus: 1}}
"""
MELFED = "from melfed.simulations.cli.main import main; main()"


def write_clinics(folder: Path, clinics: int, images: int, rounds: int) -> None:
    """Write a data folder whose sources are the clinics, the same images as arrays, and the study."""
    random = np.random.default_rng(0)
    targets = (random.random((clinics, images)) < 0.4).astype(np.float32)
    targets[:, 0], targets[:, 1] = 0, 1
    coarse = random.integers(0, 200, (clinics, images, 8, 8, 3)) + 40 * targets[..., None, None, None]
    pixels = np.repeat(np.repeat(coarse.astype(np.uint8), SIZE // 8, axis=2), SIZE // 8, axis=3)
    (folder / "data" / "images").mkdir(parents=True)
    np.save(folder / PIXELS, pixels)
    np.save(folder / TARGETS, targets)
    (folder / STUDY).write_text(PROTOCOL.format(size=SIZE, held=1 / HELD_OUT, rounds=rounds))
    with (folder / "data" / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "diagnosis", "patient_id", "source"])
        for clinic, number in np.ndindex(clinics, images):
            name = f"images/{clinic:05d}-{number:04d}.png"
            Image.fromarray(pixels[clinic, number]).save(folder / "data" / name)
            diagnosis = "mel" if targets[clinic, number] else "nv"
            table.writerow([name, diagnosis, f"{clinic}-{number}", f"clinic-{clinic:05d}"])


class AnsweringGrid:
    """Clinics that answer at once: the model that came is their update, and their scores are always the same."""

    def __init__(self, clinics: int, study: StudyProtocol) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.clinics, self.study, self.sent = clinics, study, 0
        self.spent = 0.0
        """Seconds of processor time in which answers were made."""
        self.arrived: dict[str, Message] = {}
        scores = ScoreHistogram.from_scores([-0.5, 0.25], [0, 1], ["a", "b"])
        self.scores = ArrayRecord({PACKED: Array(**pack(scores.to_arrays()))})

    def get_nodes(self) -> list[NodeInfo]:
        """Return a node a clinic."""
        return [NodeInfo(node_id=number) for number in range(1, self.clinics + 1)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Answer messages."""
        identities, started = [], process_time()
        for message in messages:
            self.sent += 1
            identities.append(str(self.sent))
            message.metadata.__dict__["_message_id"] = identities[-1]
            self.arrived[identities[-1]] = Message(self._answer(message), reply_to=message)
        self.spent += process_time() - started
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the answers one at a time, as they come from clinics that train."""
        first = next(iter(message_ids))
        return [self.arrived.pop(first)]

    def _answer(self, message: Message) -> RecordDict:
        asked = message.content.config_records[REQUEST]
        if message.metadata.message_type.startswith("query"):
            counts = {f"{part}_{what}": 2 for part in ("train", "validation", "test") for what in ("images", "groups")}
            positives = {f"{part}_positives": 1 for part in ("train", "validation", "test")}
            identity = {"clinic": f"clinic-{message.metadata.dst_node_id:05d}", "digest": self.study.digest}
            told = MetricRecord({**counts, **positives, "noise": 0.0})
            return RecordDict({IDENTITY: ConfigRecord({**identity, "version": "", "synthetic": True}), COUNTS: told})
        request = ConfigRecord({name: asked[name] for name in ("round", "digest", "run")})
        answer = RecordDict({REQUEST: request, VALIDATION: self.scores})
        if message.metadata.message_type == "evaluate":
            answer[TEST] = self.scores
        else:
            answer[TENSORS] = message.content.array_records[TENSORS]
            answer[METRICS] = MetricRecord({"weight": 2, "loss": 0.7})
        return answer


class _Cost(Silent):
    """Measures the processor time of each round, without that of the answering clinics."""

    def __init__(self, grid: AnsweringGrid) -> None:
        self.grid, self.started_at = grid, 0.0
        self.rounds: list[float] = []

    def round_started(self, round_number: int, clinics: list[str]) -> None:  # noqa: ARG002
        """See `melfed.server.federation.observer.Observer`."""
        self.started_at = process_time() - self.grid.spent

    def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:  # noqa: ARG002
        """See `melfed.server.federation.observer.Observer`."""
        self.rounds.append(process_time() - self.grid.spent - self.started_at)


def coordinator(clinics: int, study: StudyProtocol, folder: Path) -> float:
    """Return the milliseconds of processor time that a round costs the coordinator, by clinic (median of the rounds).

    Asking, checking, the mean, the clinics' validation metrics and the checkpoint are counted.
    """
    grid = AnsweringGrid(clinics, study)
    cost = _Cost(grid)
    initial = trainable_tensors(build_study_classifier(study))
    rounds = Rounds(study, RunFolder.create(folder, study), initial, Conduct(clinics, poll_seconds=0.0), cost)
    rounds.conduct(FlowerChannel(grid))
    return median(cost.rounds) / clinics * 1000


def measure(clinics: int, images: int, rounds: int, repeats: int, with_flower: bool) -> dict[str, Any]:
    """Return seconds of all, and how many times as long melfed takes as the others: of some repeats, the median."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clinics(folder, clinics, images, rounds)
        study, cache = recorded_study(folder / STUDY), default_cache() / "engine"
        divide(study, folder / "data", cache)
        runs: list[dict[str, float]] = []
        for repeat in range(repeats):
            runs.append(_melfed(folder, cache, folder / f"run-{repeat}"))
            started = monotonic()
            runs[-1]["loop_rounds"] = sum(json.loads(_reference("loop", folder, rounds))[:rounds])
            runs[-1]["loop_command"] = monotonic() - started
            if with_flower:
                started = monotonic()
                _reference("flower", folder, rounds)
                runs[-1]["flower_command"] = monotonic() - started
        found: dict[str, Any] = {name: median(run[name] for run in runs) for name in runs[0]}
        few = clinics // 2
        costs = {n: coordinator(n, study, folder / f"coordinator-{n}") for n in (few, clinics)}
    ratio = {
        "loop": median(run["rounds"] / run["loop_rounds"] for run in runs),
        "loop_command": median(run["command"] / run["loop_command"] for run in runs),
    }
    if with_flower:
        ratio["flower"] = median(run["command"] / run["flower_command"] for run in runs)
    return {
        "clinics": clinics,
        "images": images,
        "rounds_trained": rounds,
        "cores": os.cpu_count(),
        **found,
        "coordinator_ms_a_clinic": costs[clinics],
        "coordinator_ms_a_clinic_of_half_as_many": costs[few],
        "ratio": ratio,
    }


def memory_of(numbers: tuple[int, int], images: int, rounds: int) -> dict[str, Any]:
    """Return the most memory of melfed's command with few clinics and with many, and its growth, without references."""
    found = []
    for clinics in numbers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_clinics(folder, clinics, images, rounds)
            divide(recorded_study(folder / STUDY), folder / "data", folder / "cache")
            found.append(_melfed(folder, folder / "cache", folder / "run")["memory_mb"])
    few, many = found
    told = {"clinics": numbers[1], "against": numbers[0], "images": images, "rounds_trained": rounds}
    return told | {"cores": os.cpu_count(), "memory_mb": many, "memory_mb_against": few, "ratio": many / few}


def _melfed(folder: Path, cache: Path, out: Path) -> dict[str, float]:
    """Run melfed's command; return its seconds, those of the rounds, and of all else from the model to the report."""
    started = monotonic()
    options = ["--data", folder / "data", "--cache", cache, "--out", out, "--engine", "local", "--no-predictions"]
    most = _run(["-c", MELFED, "run", folder / STUDY, *options])[1]
    command = monotonic() - started
    summary = json.loads((out / "summary.json").read_text())
    return {
        "command": command,
        "memory_mb": most / MEGABYTE,
        "rounds": sum(row["seconds"] for row in summary["rounds"]),
        "start_and_end": summary["seconds"] - sum(row["seconds"] for row in summary["rounds"]),
    }


def _reference(name: str, folder: Path, rounds: int) -> str:
    return _run(["-m", engine_references.__name__, name, folder, rounds])[0]


def _run(arguments: list[Any]) -> tuple[str, int]:
    """Run Python to its end; see `melfed.simulations.benchmarks.memory.run`."""
    return run([sys.executable, *map(str, arguments)])


def main(
    clinics: Annotated[int, typer.Option(min=4, help="How many.")] = 1000,
    images: Annotated[int, typer.Option(min=6, help="Of each, a third of them held out.")] = 12,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each, taken in turn.")] = 1,
    flower: Annotated[bool, typer.Option(help="Against Flower's own simulation too.")] = True,
    memory_against: Annotated[
        int | None, typer.Option(min=4, help="Only the most memory, against that with so many clinics.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what the engine costs."""
    if memory_against:
        result = memory_of((memory_against, clinics), images, rounds)
    else:
        result = measure(clinics, images, rounds, repeats, flower)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    typer.run(main)
