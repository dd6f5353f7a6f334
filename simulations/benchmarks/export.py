"""What an exported model is like: its size, its time for one picture, how near it is, and what eight bits cost.

    python -m melfed.simulations.benchmarks.export [--size 224] [--repeats 30] [--backbones a,b] [--images DIR] [--json]
    python -m melfed.simulations.benchmarks.export --run RUN --data DIR [--images DIR] [--most 2000] [--ways] [--json]

Without a run: a row a family, with random weights and frozen statistics, as a network has them that began with ImageNet
weights. Time is the median of single pictures of the network's size on one thread, one after the other. With a run: its
model's AUROC on a labelled folder by PyTorch, by ONNX from the files on, and in eight bits; with `--ways` a row for
each way to eight bits, against single precision, from the network's input on. Ranges of eight bits follow from
`--images`, a folder of public images; without one, of rendered lesions.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from PIL import Image, ImageOps

from melfed.common.data.augmentation import to_input
from melfed.common.data.images.decoder import ImageProblem, Pixels, decode
from melfed.common.data.records import read_table
from melfed.common.export.facts import ModelFacts
from melfed.common.export.onnx_graph import onnx_model
from melfed.common.export.quantise import EightBits, calibration_images, quantised
from melfed.common.export.scorer import OnnxScorer
from melfed.common.metrics.exact import scored_metrics
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier, build_classifier, build_trunk
from melfed.common.study.protocol import DataSpec, ModelSpec, StudyProtocol
from melfed.common.tensors import to_bytes
from melfed.server.results.evaluate import load_model
from melfed.server.runs.folder import RunFolder
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom

FAMILIES: Final = (
    "simple_cnn",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "mobilenet_v2",
    "mnasnet1_0",
    "efficientnet_lite0",
    "efficientnet_b0",
    "googlenet",
    "densenet121",
    "resnet18",
    "vgg11",
)
"""One network of each family, the smallest."""
MEGABYTE = 1e6
WAYS: Final = {
    "as it is": EightBits(),
    "pooled features, neck and head in 8 bits too": EightBits(ends=True),
    "all in 8 bits": EightBits(ends=True, first=0),
    "no convolution in single precision": EightBits(first=0),
    "the first one": EightBits(first=1),
    "the first three": EightBits(first=3),
    "the first eight": EightBits(first=8),
    "ranges end at 99.99 %": EightBits(percentile=99.99),
    "ranges end at 99.9 %": EightBits(percentile=99.9),
    "a layer's weights share a range": EightBits(channels=False),
    "ranges of activations symmetric": EightBits(symmetric=True),
}
"""Ways to eight bits; what a row does not name is as it is."""


def network(backbone: str) -> Classifier:
    """Return a network with random weights and a random head; with frozen statistics, but for the simple network."""
    plain = backbone == "simple_cnn"
    spec = ModelSpec(backbone=backbone, pretrained=not plain)
    state = None
    if not plain:
        trunk = build_trunk(backbone, pretrained=True).state_dict()
        state = {name: value for name, value in trunk.items() if not name.endswith("num_batches_tracked")}
    model = build_classifier(spec, seed=0, state=state)
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return model.eval()


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of one call, after two that are not counted."""
    seconds = []
    for repeat in range(repeats + 2):
        started = perf_counter()
        work()
        if repeat > 1:
            seconds.append(perf_counter() - started)
    return 1000 * statistics.median(seconds)


def logit(model: Classifier, pixels: Pixels) -> float:
    """Return what `melfed-server predict` computes of a picture of the network's size."""
    spec = backbone_spec(model.backbone)
    with torch.inference_mode():
        return float(model(to_input(pixels[None], spec.mean, spec.std, None)))


def row(backbone: str, size: int, repeats: int, images: list[Pixels]) -> dict[str, Any]:
    """Return sizes in MB and times in ms of one network."""
    model = network(backbone)
    study = StudyProtocol(
        name="benchmark", data=DataSpec(image_size=size), model=ModelSpec(backbone=backbone, pretrained=False)
    )
    tensors = to_bytes({name: value.numpy() for name, value in model.state_dict().items()})
    facts = ModelFacts.of(study)
    whole = onnx_model(model, facts).SerializeToString()
    small = quantised(onnx_model(model, facts, folded=True), images).SerializeToString()
    graphs = {"onnx": OnnxScorer(whole), "int8": OnnxScorer(small)}
    picture = images[0]
    found: dict[str, Any] = {"backbone": backbone, "size": size}
    found |= {"safetensors_mb": len(tensors) / MEGABYTE, "onnx_mb": len(whole) / MEGABYTE}
    found |= {"int8_mb": len(small) / MEGABYTE, "torch_ms": milliseconds(lambda: logit(model, picture), repeats)}
    for name, graph in graphs.items():
        found[f"{name}_ms"] = milliseconds(lambda graph=graph: graph.score(picture), repeats)  # type: ignore[misc]
    return found


def upright(path: Path) -> Pixels:
    """Return a whole picture as RGB, turned as its EXIF says."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def judged(run: Path, data: Path, images: list[Pixels], most: int) -> dict[str, Any]:
    """Return AUROCs of a run's model on a labelled folder, and how far probabilities and logits are apart.

    Args:
        run: a finished run.
        data: the labelled folder.
        images: public ones, for the ranges of eight bits.
        most: how many images at most, by an even step over the table.
    """
    study, model = load_model(RunFolder.open(run))
    table = read_table(data, study.data.positive)
    records = table.records[:: max(1, -(-len(table.records) // most))]
    model = model.eval()
    facts = ModelFacts.of(study)
    protos = (onnx_model(model, facts), quantised(onnx_model(model, facts, folded=True), images))
    whole, small = (OnnxScorer(proto.SerializeToString()) for proto in protos)
    scores: list[tuple[float, ...]] = []
    used = []
    for record in records:
        path = table.root / record.image
        try:
            square = decode(path, study.data.image_size)
        except ImageProblem:
            continue
        picture = upright(path)
        scores.append((logit(model, square), whole.score(square)[1], whole.score(picture)[1], small.score(picture)[1]))
        used.append(record)
    targets = np.array([record.target for record in used])
    groups = [record.patient_id or record.lesion_id or record.image for record in used]
    columns = np.array(scores).T
    names = ("torch", "onnx_from_input", "onnx_from_file", "int8_from_file")
    found: dict[str, Any] = {"run": run.name, "backbone": model.backbone, "images": len(used)}
    found["melanomas"] = int(targets.sum())
    chances = 1 / (1 + np.exp(-columns))
    for name, logits, probabilities in zip(names, columns, chances, strict=True):
        apart = np.abs(probabilities - chances[0])
        found[name] = {
            "auroc": scored_metrics(logits, targets, groups).auroc.value,
            "largest_logit_difference": float(np.abs(logits - columns[0]).max()),
            "largest_probability_difference": float(apart.max()),
            "mean_probability_difference": float(apart.mean()),
        }
    return found


def compared(run: Path, data: Path, images: list[Pixels], most: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each of `WAYS`: AUROC, how far probabilities are from single precision, size in MB, ms a picture.

    Args: as of `judged`.
    """
    study, model = load_model(RunFolder.open(run))
    table = read_table(data, study.data.positive)
    squares, targets, groups = [], [], []
    for record in table.records[:: max(1, -(-len(table.records) // most))]:
        try:
            squares.append(decode(table.root / record.image, study.data.image_size))
        except ImageProblem:
            continue
        targets.append(record.target)
        groups.append(record.patient_id or record.lesion_id or record.image)
    proto = onnx_model(model.eval(), ModelFacts.of(study), folded=True)
    exact = np.array([0.0])
    for name, how in {"single precision": None, **WAYS}.items():
        content = (proto if how is None else quantised(proto, images, how)).SerializeToString()
        graph, started = OnnxScorer(content), perf_counter()
        logits = np.array([graph.score(square)[1] for square in squares])
        seconds = perf_counter() - started
        exact = logits if how is None else exact
        apart = np.abs(1 / (1 + np.exp(-logits)) - 1 / (1 + np.exp(-exact)))
        yield {
            "way": name,
            "auroc": scored_metrics(logits, np.array(targets), groups).auroc.value,
            "mean_probability_difference": float(apart.mean()),
            "largest_probability_difference": float(apart.max()),
            "logits_correlation": float(np.corrcoef(logits, exact)[0, 1]),
            "mb": len(content) / MEGABYTE,
            "ms": 1000 * seconds / len(squares),
        }


def pictures(folder: Path | None, size: int) -> list[Pixels]:
    """Return images that eight bits are calibrated on: of a folder, or rendered ones."""
    if folder is not None:
        return calibration_images(folder, size)
    with tempfile.TemporaryDirectory() as name:
        write_phantom(Path(name) / "data", PhantomSpec(clinics=3, images=64, melanoma_rate=0.3, size=size))
        return calibration_images(Path(name), size)


def measure(backbones: list[str], size: int, repeats: int, images: list[Pixels]) -> Iterator[dict[str, Any]]:
    """Yield a row a network, on one thread."""
    torch.set_num_threads(1)
    for backbone in backbones:
        yield row(backbone, size, repeats, images)


def main(
    size: Annotated[int, typer.Option(min=32, help="side of the input, pixels")] = 224,
    repeats: Annotated[int, typer.Option(min=1)] = 30,
    backbones: Annotated[str, typer.Option(help="names, with commas")] = ",".join(FAMILIES),
    images: Annotated[Path | None, typer.Option(help="folder of public images for eight bits")] = None,
    run: Annotated[Path | None, typer.Option(help="a finished run, whose model is judged on --data")] = None,
    data: Annotated[Path | None, typer.Option(help="labelled folder")] = None,
    most: Annotated[int, typer.Option(min=1, help="images of --data, at most")] = 2000,
    ways: Annotated[bool, typer.Option("--ways", help="compare ways to eight bits, with --run")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure exported models."""
    if ways and run is None:
        raise typer.BadParameter("--ways compares on a run: name --run and --data")
    if (run is None) != (data is None):
        raise typer.BadParameter("--run and --data belong together")
    if run is not None and data is not None:
        side = RunFolder.open(run).study().data.image_size
        if not ways:
            found = judged(run, data, pictures(images, side), most)
            sys.stdout.write(json.dumps(found, indent=None if as_json else 2) + "\n")
            return
        rows = compared(run, data, pictures(images, side), most)
    else:
        rows = measure(backbones.split(","), size, repeats, pictures(images, size))
    for each in rows:
        line = json.dumps(each) if as_json else "  ".join(_shown(name, value) for name, value in each.items())
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _shown(name: str, value: object) -> str:
    return f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"


if __name__ == "__main__":
    typer.run(main)
