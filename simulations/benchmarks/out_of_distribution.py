"""How often pictures of other kinds are called unlike, by statistics of all sources of a folder but one.

    python -m melfed.simulations.benchmarks.out_of_distribution --data DIR [--others DIR] [--run RUN] [--json]

For each source of `--data` in turn the statistics are of the others. Told is the share that is called unlike of the
source that was left out, of the pictures of `--others` that come from no source of `--data`, of rendered lesions, and
of the photographs that come with scikit-image. The features are those of EfficientNet-Lite0 with ImageNet weights, or
those of a run's model, behind its neck where it has one. Images are taken by an even step over each table.
"""

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from melfed.common.data.images.decoder import ImageProblem, Pixels, decode
from melfed.common.data.records import read_table
from melfed.common.errors import RunError
from melfed.common.export.out_of_distribution import FALSE_ALARMS, FeatureStatistics, of_public
from melfed.common.export.public_images import chosen_files
from melfed.common.model.classifier import Classifier
from melfed.common.tensors import Array
from melfed.server.results.evaluate import load_model
from melfed.server.results.features import features_of
from melfed.server.results.seen import held_out
from melfed.server.runs.folder import RunFolder
from melfed.simulations.benchmarks.phone import network
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom

RENDERED = 200


def by_source(folder: Path, most: int, size: int) -> dict[str, list[Pixels]]:
    """Return images of each source of a labelled folder, uint8 (size, size, 3): at most so many of all."""
    table = read_table(folder)
    found: dict[str, list[Pixels]] = {}
    for record in table.records[:: max(1, -(-len(table.records) // most))]:
        found.setdefault(record.source, []).extend(usable([table.root / record.image], size))
    return found


def usable(paths: Iterable[Path], size: int) -> list[Pixels]:
    """Return the pictures among these files that melfed takes."""
    found = []
    for path in paths:
        try:
            found.append(decode(path, size))
        except ImageProblem:
            continue
    return found


def photographs(size: int) -> list[Pixels]:
    """Return the photographs that come with scikit-image. Raises RunError where it is not installed."""
    try:
        from skimage import data
    except ImportError:
        raise RunError("scikit-image is not installed here; pip install scikit-image") from None
    return usable(sorted(Path(data.__file__).parent.glob("*.[pj][np]g")), size)


def rendered(size: int) -> list[Pixels]:
    """Return rendered lesions of four cameras."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_phantom(Path(name) / "data", PhantomSpec(clinics=4, images=RENDERED, size=size))
        return usable(chosen_files(folder, RENDERED), size)


def unlike(seen: FeatureStatistics, features: Array) -> float | None:
    """Return the share of images that are called unlike; None of none."""
    return float((seen.scores(features) > 1).mean()) if len(features) else None


def measure(
    model: Classifier, known: dict[str, list[Pixels]], other: dict[str, list[Pixels]], rate: float
) -> list[dict[str, Any]]:
    """Return a row for each source that is left out.

    Args:
        model: whose features are looked at.
        known: images of each source.
        other: images of each other kind.
        rate: of false alarms that is asked for.
    """
    features = {name: features_of(model, images) for name, images in known.items()}
    strange = {name: features_of(model, images) for name, images in other.items() if images}
    rows = []
    for left_out in sorted(features):
        of = np.concatenate([features[name] for name in sorted(features) if name != left_out])
        seen = of_public(of, held_out(len(of)), rate)
        row: dict[str, Any] = {"left_out": left_out, "images": len(of), "features": seen.features, "rate": rate}
        row["unlike"] = {left_out: unlike(seen, features[left_out])}
        row["unlike"] |= {name: unlike(seen, values) for name, values in strange.items()}
        rows.append(row)
    return rows


def main(
    data: Annotated[Path, typer.Option(help="labelled folder with two sources or more")],
    others: Annotated[Path | None, typer.Option(help="labelled folder of other sources")] = None,
    run: Annotated[Path | None, typer.Option(help="a finished run, whose features are taken")] = None,
    size: Annotated[int, typer.Option(min=32, help="side of the input, pixels, where there is no run")] = 128,
    most: Annotated[int, typer.Option(min=60, help="images of each folder, at most")] = 3000,
    rate: Annotated[float, typer.Option(help="false alarms")] = FALSE_ALARMS,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure what is called unlike."""
    model = network()
    if run is not None:
        study, model = load_model(RunFolder.open(run))
        size = study.data.image_size
    known = by_source(data, most, size)
    if len(known) < 2:
        raise typer.BadParameter(f"{data}: all images are of one source; name a folder with two or more")
    other = {} if others is None else by_source(others, most, size)
    kinds = {
        "other sources": [image for name, images in other.items() if name not in known for image in images],
        "rendered lesions": rendered(size),
        "photographs": photographs(size),
    }
    counts = {name: len(images) for name, images in (known | kinds).items()}
    rows = measure(model, known, kinds, rate)
    if as_json:
        sys.stdout.write(json.dumps({"counts": counts, "rows": rows}) + "\n")
        return
    sys.stdout.write("images: " + ", ".join(f"{name} {count}" for name, count in counts.items()) + "\n")
    for row in rows:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in row["unlike"].items() if share is not None)
        sys.stdout.write(f"without {row['left_out']}: {shares}\n")


if __name__ == "__main__":
    typer.run(main)
