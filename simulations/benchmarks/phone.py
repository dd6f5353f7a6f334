"""The page for phones: its size, and seconds from a photograph to the answer, in single precision and in 8 bits.

    python -m melfed.simulations.benchmarks.phone [--size 224] [--opens 3] [--further 5] [--images DIR] [--json]

A page of EfficientNet-Lite0 with ImageNet weights and a random head is written twice, once with `--int8`, and opened
in headless Chromium in turn. It is given a photograph as a phone takes one: a rendered lesion, 4032 × 3024 pixels,
JPEG, to be turned by its EXIF. Time is that of the browser's own clock, from the choice of the file until the frame
after the probability is on the page. `first_s` is that of the first picture after the page was opened, with the loading
of ONNX Runtime and the model from what the page has put on the device; `further_s` of those after it; `read_s` is the
part of a further one that reading, turning, resizing and checking the picture takes, and `network_s` the rest. All are
medians. The ranges of 8 bits follow from `--images`, a folder of public images; without one, of rendered lesions.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from PIL import Image

from melfed.common.errors import RunError
from melfed.common.export.facts import ModelFacts
from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.model.weights import find_weights, load_weights
from melfed.common.study.protocol import DataSpec, ModelSpec, StudyProtocol
from melfed.server.phone.page import write_page
from melfed.server.phone.runtime import runtime_files
from melfed.simulations.benchmarks.browser import chromium, served
from melfed.simulations.benchmarks.gradients import processor
from melfed.simulations.phantom.dataset import PhantomSpec, cameras, sample_traits, write_phantom
from melfed.simulations.phantom.rendering import render_lesion

BACKBONE: Final = "efficientnet_lite0"
PHOTOGRAPH: Final = (4032, 3024)
"""Width and height of the pixels in the file, which its EXIF says to turn: upright, it is 3024 × 4032."""
RENDERED: Final = 1024
GRAIN: Final = 3.0
"""Standard deviation of the photograph's noise, in levels: without it a JPEG would be smaller than a camera's."""
TURNED: Final = {0x0112: 6}
MEGABYTE: Final = 1e6
READY: Final = "return document.body.dataset.state === 'ready' && navigator.serviceWorker?.controller !== null"
WATCH: Final = """
window.measured = null;
document.addEventListener('change', () => {
  const began = performance.now(), found = {};
  const answer = document.getElementById('answer');
  const read = new MutationObserver(() => { if (!answer.hidden) found.read = performance.now() - began; });
  read.observe(answer, {attributes: true, attributeFilter: ['hidden']});
  const state = new MutationObserver(() => {
    if (!['done', 'refused'].includes(document.body.dataset.state)) return;
    [read, state].forEach(each => each.disconnect());
    requestAnimationFrame(() => requestAnimationFrame(() => {
      const {value} = document.getElementById('probability').dataset;
      window.measured = {...found, answer: performance.now() - began, probability: value ? Number(value) : null};
    }));
  });
  state.observe(document.body, {attributes: true, attributeFilter: ['data-state']});
}, true);
"""
"""Takes the time of the next pictures; a frame is drawn between two callbacks of `requestAnimationFrame`."""


def network() -> Classifier:
    """Return EfficientNet-Lite0 with ImageNet weights, as the demo has it, and a random head.

    Raises:
        WeightsError: the weights are not here.
    """
    state = load_weights(find_weights(BACKBONE, download=False), BACKBONE)
    model = build_classifier(ModelSpec(backbone=BACKBONE, pretrained=True), seed=0, state=state)
    torch.nn.init.normal_(model.head.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    return model.eval()


def photograph(path: Path, seed: int = 0) -> Path:
    """Write a photograph of a rendered lesion, of a phone's size and turned as a phone turns it; return `path`."""
    rng = np.random.default_rng(seed)
    traits = sample_traits(rng, melanoma=False, melanin=0.3, hairiness=0.1)
    lesion = Image.fromarray(render_lesion(traits, cameras(("phone",), seed)[0], RENDERED, rng))
    pixels = np.asarray(lesion.resize(PHOTOGRAPH, Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + rng.normal(0, GRAIN, pixels.shape[:2]).astype(np.float32)[..., None]
    exif = Image.Exif()
    exif.update(TURNED)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=92, exif=exif)
    return path


def write_pages(place: Path, model: Classifier, size: int, images: Path) -> dict[str, Path]:
    """Write the page in single precision and in 8 bits below an empty folder; return both by name."""
    spec = ModelSpec(backbone=model.backbone, pretrained=False)
    facts = ModelFacts.of(StudyProtocol(name="benchmark", data=DataSpec(image_size=size), model=spec))
    runtime = runtime_files()
    pages = {"float": place / "float", "int8": place / "int8"}
    for name, page in pages.items():
        write_page(page, model, facts, runtime, images if name == "int8" else None)
    return pages


def opened(page: Path, picture: Path, further: int) -> dict[str, Any]:
    """Open a page in a fresh browser, and give it the picture; return seconds, the probability and the browser.

    Raises:
        RunError: the page gives no answer, or there is no browser.
    """
    from selenium.webdriver.support.wait import WebDriverWait

    with served(page) as address, chromium() as browser:
        waiting = WebDriverWait(browser, 300, poll_frequency=0.1)
        browser.get(f"{address}/")
        waiting.until(lambda one: one.execute_script(READY))
        browser.execute_script(WATCH)
        times = []
        for _ in range(1 + further):
            browser.execute_script("window.measured = null")
            browser.find_element("id", "file").send_keys(str(picture))
            times.append(waiting.until(lambda one: one.execute_script("return window.measured")))
        if times[-1]["probability"] is None:
            raise RunError(f"{picture}: the page gave no answer; open it in a browser and look why")
        return {
            "first": times[0]["answer"] / 1000,
            "further": [each["answer"] / 1000 for each in times[1:]],
            "read": [each["read"] / 1000 for each in times[1:]],
            "probability": times[-1]["probability"],
            "browser": f"Chromium {browser.capabilities['browserVersion']}",
        }


def measure(
    place: Path, size: int = 224, opens: int = 3, further: int = 5, images: Path | None = None
) -> dict[str, Any]:
    """Return all figures.

    Args:
        place: an empty folder.
        size: side of the network's input, pixels.
        opens: how many times each page is opened, in turn.
        further: pictures after the first, each time.
        images: folder of public images for the ranges of 8 bits.
    """
    if images is None:
        images = write_phantom(place / "lesions", PhantomSpec(clinics=3, images=64, melanoma_rate=0.3, size=size))
    pages = write_pages(place, network(), size, images)
    picture = photograph(place / "photograph.jpg")
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in pages}
    for _ in range(opens):
        for name, page in pages.items():
            seen[name].append(opened(page, picture, further))
    found: dict[str, Any] = {"backbone": BACKBONE, "size": size, "processor": processor()}
    found |= {"browser": seen["float"][0]["browser"], "photograph_mb": picture.stat().st_size / MEGABYTE}
    for name, page in pages.items():
        found[name] = {
            "page_mb": sum(file.stat().st_size for file in page.rglob("*") if file.is_file()) / MEGABYTE,
            "model_mb": (page / "model.onnx").stat().st_size / MEGABYTE,
            "first_s": statistics.median(each["first"] for each in seen[name]),
            "further_s": statistics.median(time for each in seen[name] for time in each["further"]),
            "read_s": statistics.median(time for each in seen[name] for time in each["read"]),
            "network_s": statistics.median(
                time - read for each in seen[name] for time, read in zip(each["further"], each["read"], strict=True)
            ),
            "probability": seen[name][0]["probability"],
        }
    keys = ("page_mb", "model_mb", "first_s", "further_s", "network_s")
    return {**found, "int8_over_float": {key: found["int8"][key] / found["float"][key] for key in keys}}


def main(
    size: Annotated[int, typer.Option(min=32, help="side of the network's input, pixels")] = 224,
    opens: Annotated[int, typer.Option(min=1, help="times that each page is opened")] = 3,
    further: Annotated[int, typer.Option(min=1, help="pictures after the first, each time")] = 5,
    images: Annotated[Path | None, typer.Option(help="folder of public images for 8 bits")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure the page for phones."""
    with tempfile.TemporaryDirectory(prefix="melfed-phone-") as place:
        found = measure(Path(place), size, opens, further, images)
    sys.stdout.write(json.dumps(found, indent=None if as_json else 2) + "\n")


if __name__ == "__main__":
    typer.run(main)
