"""What the engine is held against: the same local trainings in one plain loop, and in Flower's own simulation.

Both are written as PyTorch's and Flower's documentation would have them, over the same images and the same network; the
whole model travels and is loaded in each message. As commands, so that each is measured with its own start and end:

    python -m melfed.simulations.benchmarks.engine_references loop|flower FOLDER ROUNDS
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from melfed.common.study.build import build_study_classifier
from melfed.common.study.file import recorded_study
from melfed.common.study.protocol import StudyProtocol

PIXELS, TARGETS, STUDY = "pixels.npy", "targets.npy", "study.yaml"
"""Of the folder: uint8 (clinics, images, size, size, 3), float32 (clinics, images), and the study."""
HELD_OUT = 6
"""One image in so many is for validation, and one for testing."""


@dataclass(frozen=True)
class Part:
    """Images of a clinic, ready for the network: float32 (n, 3, size, size), and 0 or 1 of each."""

    pixels: torch.Tensor
    targets: torch.Tensor


class Data:
    """The images of all clinics, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.pixels: npt.NDArray[np.uint8] = np.load(folder / PIXELS, mmap_mode="r")
        self.targets: npt.NDArray[np.float32] = np.load(folder / TARGETS)
        self.clinics, self.images = self.targets.shape
        self.held = max(1, self.images // HELD_OUT)

    def part(self, clinic: int, name: str) -> Part:
        """Return the part `train`, `validation` or `test` of a clinic."""
        cut = {
            "validation": slice(0, self.held),
            "test": slice(self.held, 2 * self.held),
            "train": slice(2 * self.held, None),
        }[name]
        pixels = torch.from_numpy(np.array(self.pixels[clinic, cut])).permute(0, 3, 1, 2).float() / 255
        return Part((pixels - 0.5) / 0.25, torch.from_numpy(self.targets[clinic, cut]))


def fit(model: torch.nn.Module, part: Part, study: StudyProtocol) -> float:
    """Train for one pass; return the mean loss."""
    spec = study.training
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], spec.learning_rate, weight_decay=spec.weight_decay
    )
    model.train()
    total = 0.0
    for chosen in torch.randperm(len(part.targets)).split(spec.batch_size):  # type: ignore[no-untyped-call]
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(part.pixels[chosen]), part.targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * len(chosen)
    return total / len(part.targets)


def score(model: torch.nn.Module, part: Part) -> float:
    """Return the loss on a part."""
    model.eval()
    with torch.inference_mode():
        return float(F.binary_cross_entropy_with_logits(model(part.pixels), part.targets))


def loop(folder: Path, rounds: int) -> Iterator[float]:
    """Train the clinics one after the other in this process; yield the seconds of each round, then of the evaluation.

    Each model is loaded, validated as it came, trained, and added to the mean; after the last round it is scored on
    validation and test part.
    """
    study, data = recorded_study(folder / STUDY), Data(folder)
    model = build_study_classifier(study)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(rounds):
        started = monotonic()
        mean = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in weights.items()}
        for clinic in range(data.clinics):
            model.load_state_dict(weights)
            score(model, data.part(clinic, "validation"))
            fit(model, data.part(clinic, "train"), study)
            for name, tensor in model.state_dict().items():
                mean[name] += tensor / data.clinics
        weights = {name: tensor.to(weights[name].dtype) for name, tensor in mean.items()}
        yield monotonic() - started
    started = monotonic()
    model.load_state_dict(weights)
    for clinic in range(data.clinics):
        for name in ("validation", "test"):
            score(model, data.part(clinic, name))
    yield monotonic() - started


class CheckedGrid:
    """A Flower grid that ends a run where a clinic failed: FedAvg leaves the clinic out, all of them if need be."""

    def __init__(self, grid: Any) -> None:
        self.grid = grid

    def __getattr__(self, name: str) -> Any:
        """Answer all else as the grid does."""
        return getattr(self.grid, name)

    def send_and_receive(self, messages: Iterable[Any], **options: Any) -> list[Any]:
        """Send, wait, and check the replies. Raises RuntimeError with what the first that failed says."""
        replies = list(self.grid.send_and_receive(messages, **options))
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(f"a clinic failed: {reply.error.reason}")
        return replies


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> tuple[StudyProtocol, Data]:
    return recorded_study(folder / STUDY), Data(folder)


def flower(folder: Path, rounds: int) -> None:
    """Run Flower's own simulation of the same job, one core a clinic: FedAvg, which evaluates after each round."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client, server = ClientApp(), ServerApp()

    def start(message: Message, context: Context) -> tuple[StudyProtocol, Data, int, torch.nn.Module]:
        study, data = _loaded(folder)
        model = build_study_classifier(study)
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        return study, data, int(str(context.node_config["partition-id"])), model

    @client.train()
    def train(message: Message, context: Context) -> Message:
        study, data, clinic, model = start(message, context)
        part = data.part(clinic, "train")
        metrics = MetricRecord({"train_loss": fit(model, part, study), "num-examples": len(part.targets)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        _, data, clinic, model = start(message, context)
        part = data.part(clinic, "validation")
        metrics = MetricRecord({"eval_loss": score(model, part), "num-examples": len(part.targets)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        model = build_study_classifier(_loaded(folder)[0])
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0)
        strategy.start(CheckedGrid(grid), initial_arrays=ArrayRecord(model.state_dict()), num_rounds=rounds)  # type: ignore[arg-type]

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=_loaded(folder)[1].clinics, backend_config=resources)  # type: ignore[arg-type]


if __name__ == "__main__":
    # By its name: Ray's workers import the apps from there, and know no `__main__` of this process.
    from melfed.simulations.benchmarks import engine_references

    what, place, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "flower":
        engine_references.flower(place, number)
    else:
        print(json.dumps(list(loop(place, number))))
