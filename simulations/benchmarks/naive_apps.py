"""A private study as Flower's and Opacus's documentation would write it: what `naive` holds melfed against.

FedAvg over a ClientApp: the whole model travels in each message, each message makes a new PrivacyEngine, and each pass
decodes the images again, in a plain Dataset. Network, what learns, clinics' parts, noise multiplier, clipping norm and
steps are the study's. Opacus clips images one by one, so an image is what it protects, not the study's unit. As a
command, so that its start and end are measured too; its last line is JSON:

    python -m melfed.simulations.benchmarks.naive_apps FOLDER ROUNDS
"""

import copy
import itertools
import json
import sys
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier
from melfed.common.study.build import build_study_classifier
from melfed.common.study.file import recorded_study
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.benchmarks.engine_references import CheckedGrid

STUDY, CLINICS = "study.yaml", "clinics.json"
"""Of the folder: the study with its weights' path and its noise multiplier; by clinic and part, [path, target] of each
image."""

PHYSICAL_BATCH = 64
"""Images that are in memory at a time, of a batch of all."""

Pair = tuple[torch.Tensor, torch.Tensor]


class Lesions(Dataset[Pair]):
    """Images that are decoded whenever they are asked for."""

    def __init__(self, images: list[tuple[str, int]], study: StudyProtocol) -> None:
        spec, side = backbone_spec(study.model.backbone), study.data.image_size
        self.images = images
        self.transform = transforms.Compose(
            [
                transforms.Resize(side),
                transforms.CenterCrop(side),
                transforms.ToTensor(),
                transforms.Normalize(spec.mean, spec.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Pair:
        path, target = self.images[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), torch.tensor(float(target))


@lru_cache(maxsize=1)
def loaded(folder: Path) -> tuple[StudyProtocol, Classifier, list[dict[str, list[tuple[str, int]]]]]:
    """Return what a folder holds: the study, its network as it stands before the first round, and the clinics."""
    study = recorded_study(folder / STUDY)
    return study, build_study_classifier(study), json.loads((folder / CLINICS).read_text())


def train(model: Classifier, lesions: Lesions, study: StudyProtocol) -> tuple[float, float]:
    """Train for one pass with Opacus, in place; return the mean loss, and the ε that its engine knows of."""
    from opacus import PrivacyEngine
    from opacus.utils.batch_memory_manager import BatchMemoryManager

    spec, privacy = study.training, study.privacy
    if privacy is None or privacy.noise_multiplier is None:
        raise ValueError("the study is to have privacy, with a noise multiplier")
    model.train()
    engine = PrivacyEngine()
    private, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=spec.learning_rate),
        data_loader=DataLoader(lesions, batch_size=round(len(lesions) * privacy.sampling_rate)),
        noise_multiplier=privacy.noise_multiplier,
        max_grad_norm=privacy.clipping_norm,
    )
    weight, total, seen = torch.tensor(spec.positive_weight), 0.0, 0
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=PHYSICAL_BATCH, optimizer=optimizer) as batches:
        for images, targets in batches:
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(private(images), targets, pos_weight=weight)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total, seen = total + loss.item() * len(targets), seen + len(targets)
    return total / max(seen, 1), engine.get_epsilon(privacy.delta)


def score(model: Classifier, lesions: Lesions) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the logits of images, and their targets."""
    model.eval()
    found = []
    with torch.no_grad():
        for images, targets in DataLoader(lesions, batch_size=PHYSICAL_BATCH):
            found.append((model(images), targets))
    logits, targets = (torch.cat(parts).double().numpy() for parts in zip(*found, strict=True))
    return logits, targets


class CountedGrid(CheckedGrid):
    """A grid that also counts the bytes of the arrays in its messages, and in their replies."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.down = self.up = 0

    def send_and_receive(self, messages: Iterable[Message], **options: Any) -> list[Message]:
        """Send, wait, check, and count."""
        sent = list(messages)
        self.down += sum(array_bytes(message) for message in sent)
        replies = super().send_and_receive(sent, **options)
        self.up += sum(array_bytes(message) for message in replies)
        return replies


def array_bytes(message: Message) -> int:
    """Return the bytes of a message's arrays."""
    return sum(record.count_bytes() for record in message.content.array_records.values())


def client_app(folder: Path) -> ClientApp:
    """Return the app of all clinics."""
    client = ClientApp()

    def start(message: Message, context: Context, part: str) -> tuple[StudyProtocol, Classifier, Lesions]:
        study, network, clinics = loaded(folder)
        model = copy.deepcopy(network)
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        return study, model, Lesions(clinics[int(str(context.node_config["partition-id"]))][part], study)

    @client.train()
    def fit(message: Message, context: Context) -> Message:
        study, model, lesions = start(message, context, "train")
        loss, epsilon = train(model, lesions, study)
        metrics = MetricRecord({"train_loss": loss, "epsilon": epsilon, "num-examples": len(lesions)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    @client.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        _, model, lesions = start(message, context, "validation")
        logits, targets = (torch.from_numpy(values) for values in score(model, lesions))
        metrics = MetricRecord(
            {"eval_loss": float(F.binary_cross_entropy_with_logits(logits, targets)), "num-examples": len(lesions)}
        )
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return client


def server_app(folder: Path, rounds: int, found: dict[str, Any]) -> ServerApp:
    """Return the server's app. It leaves what it measured in `found`, the AUROC of all test images after the end."""
    server = ServerApp()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        from sklearn.metrics import roc_auc_score

        study, network, clinics = loaded(folder)
        model, counted, ends = copy.deepcopy(network), CountedGrid(grid), []

        def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
            ends.append(monotonic())
            if number < rounds:
                return None
            model.load_state_dict(arrays.to_torch_state_dict())
            everybody = [image for clinic in clinics for image in clinic["test"]]
            logits, targets = score(model, Lesions(everybody, study))
            return MetricRecord({"auroc": float(roc_auc_score(targets, logits))})

        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0)
        arrays = ArrayRecord(model.state_dict())
        result = strategy.start(counted, arrays, num_rounds=rounds, evaluate_fn=evaluate)  # type: ignore[arg-type]
        found.update(
            round_seconds=[end - start for start, end in itertools.pairwise(ends)],
            bytes_down=counted.down,
            bytes_up=counted.up,
            auroc=result.evaluate_metrics_serverapp[rounds]["auroc"],
            engine_epsilon=result.train_metrics_clientapp[rounds]["epsilon"],
        )

    return server


def main(folder: Path, rounds: int) -> None:
    """Run the simulation, one core a clinic, and print what was measured."""
    from flwr.simulation import run_simulation

    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    clinics = len(loaded(folder)[2])
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app(folder, rounds, found), client_app(folder), clinics, backend_config=resources)  # type: ignore[arg-type]
    print(json.dumps(found))


if __name__ == "__main__":
    # By its name: Ray's workers import the apps from there, and know no `__main__` of this process.
    from melfed.simulations.benchmarks import naive_apps

    naive_apps.main(Path(sys.argv[1]), int(sys.argv[2]))
