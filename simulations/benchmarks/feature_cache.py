"""Rounds of training with and without the cache of the frozen prefix, taken in turn in one process.

Both start from the same model, visit the same images in the same order, and take the same steps; the cached round also
looks its features up again, as a clinic's worker does. What filling the cache costs, once, is told apart.

    python -m melfed.simulations.benchmarks.feature_cache [--data DIR] [--json]
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from melfed.client.training.inputs import Inputs
    from melfed.common.data.dataset import Images
    from melfed.common.model.backbones.spec import Trainable
    from melfed.common.study.protocol import StudyProtocol
    from melfed.common.tensors import Tensors

TO_REACH = 100.0
"""Times by which a head-only round gets faster."""

PARTS: "tuple[Trainable, ...]" = ("head", "last_block")


def measure(data: Path | None, images: int, size: int, backbone: str, repeats: int) -> dict[str, Any]:
    """Return seconds of a round with and without the cache, for what may learn; the best of some repeats.

    Args:
        data: folder of labelled images; None: synthetic lesions.
        images: how many synthetic lesions.
        size: side of the images, in pixels.
        backbone: a name of `melfed.common.model.backbones.BACKBONES`, with its ImageNet weights where they are
        published.
        repeats: rounds of each.
    """
    from melfed.client.data.clinic_data import load_part
    from melfed.common.data.images.store import default_cache
    from melfed.common.model.backbones import BACKBONES
    from melfed.common.study.protocol import PhantomSection, StudyProtocol
    from melfed.simulations.partition.virtual_clinics import divide, phantom_folder

    spec = BACKBONES[backbone]
    content = {
        "name": "cache",
        "data": {"image_size": size},
        "partition": {"by": "iid", "clinics": 2, "minimum_images": 2},
        "model": {"backbone": backbone, "pretrained": bool(spec.published or spec.package)},
        # No Adam: it would blow rounding errors up where a gradient is nearly nothing.
        "training": {"augment": False, "optimizer": "sgd", "learning_rate": 0.01},
    }
    study = StudyProtocol.model_validate(content)
    folder = data or phantom_folder(study, PhantomSection(images=images, clinics=2), default_cache())
    train = load_part(divide(study, folder, default_cache()).clinics, "train")
    rows = {part: _compare(study, part, train, repeats) for part in PARTS}
    return {"cores": os.cpu_count(), "backbone": backbone, "image_size": size, "images": len(train), "trained": rows}


def _compare(study: "StudyProtocol", part: "Trainable", images: "Images", repeats: int) -> dict[str, float]:
    """Return what rounds cost where one part of the network learns, and how far the two trained models are apart."""
    import numpy as np
    import torch

    from melfed.client.training.feature_cache import FeatureCache
    from melfed.client.training.inputs import CachedInputs
    from melfed.client.training.plain import Trainer
    from melfed.common.errors import StudyError
    from melfed.common.model.classifier import load_trainable, set_trainable, trainable_tensors
    from melfed.common.model.frozen_prefix import split
    from melfed.common.model.inference import pick_device
    from melfed.common.study.build import build_study_classifier

    device, size = pick_device(), study.data.image_size
    model = build_study_classifier(study).to(device)
    model.to(memory_format=torch.channels_last)
    set_trainable(model, part)
    start = trainable_tensors(model)

    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder))

        def stored() -> "Inputs":
            parts, features = split(model), cache.features(model, images, size, device)
            if parts is None or features is None:
                raise StudyError("nothing can be kept: the whole network learns, or the images are too many")
            return CachedInputs(parts, features, images, study.model.metadata, device)

        def run(inputs: "Callable[[], Inputs | None]") -> "tuple[float, Tensors]":
            load_trainable(model, start)
            began = perf_counter()
            Trainer(model, study, device).train(images, "all", 1, inputs=inputs())
            learnt = trainable_tensors(model)  # waits for the device
            return perf_counter() - began, learnt

        began = perf_counter()
        stored()
        filling = perf_counter() - began
        pairs = [(run(lambda: None), run(stored)) for _ in range(repeats)]
        size_on_disk = sum(path.stat().st_size for path in Path(folder).iterdir())
    network, cached = (min(pair[way][0] for pair in pairs) for way in (0, 1))
    (_, whole), (_, halves) = pairs[0]
    moved = max(float(np.abs(whole[name] - start[name]).max()) for name in start)
    apart = max(float(np.abs(whole[name] - halves[name]).max()) for name in start)
    return {
        "network_seconds": network,
        "cached_seconds": cached,
        "ratio": network / cached,
        "filling_seconds": filling,
        "bytes": size_on_disk,
        "difference": apart / moved,
    }


def main(
    data: Annotated[Path | None, typer.Option(help="Folder of labelled images.", show_default="synthetic")] = None,
    images: Annotated[int, typer.Option(min=40, help="Synthetic images, if there is no folder.")] = 1200,
    size: Annotated[int, typer.Option(min=32, help="Side of the images, in pixels.")] = 128,
    backbone: Annotated[str, typer.Option(help="Name of the backbone.")] = "efficientnet_lite0",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of each, taken in turn.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what the cache of the frozen prefix saves."""
    started = monotonic()
    result = measure(data, images, size, backbone, repeats)
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
        return
    print(f"{result['backbone']}, {result['images']} training images of {result['image_size']} px, one round:")
    for part, row in result["trained"].items():
        aim = f" (to reach: at least {TO_REACH:.0f})" if part == "head" else ""
        print(f"{part}: network {row['network_seconds']:.2f} s, cached {row['cached_seconds']:.4f} s")
        print(f"    ratio {row['ratio']:.1f}{aim}; filled once in {row['filling_seconds']:.1f} s")
        print(
            f"    {row['bytes'] / 2**20:.1f} MiB; the trained values differ by {row['difference']:.1e} of their change"
        )
    print(f"measured in {monotonic() - started:.0f} s on {result['cores']} cores")


if __name__ == "__main__":
    typer.run(main)
