"""A page in 8 bits: WebAssembly answers as the same graph does on a processor but for rounding, and near `predict`.

The graph is run node by node, each layer between whole numbers in single precision. Fused, it would be computed in the
processor's own 8-bit products, which some processors cut off at 16 bits (ONNX Runtime, "Quantize ONNX models").
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from melfed.common.errors import WeightsError
from melfed.common.export.predictions import predictions
from melfed.common.export.scorer import OnnxScorer
from melfed.server.phone.page import write_page
from melfed.simulations.benchmarks.phone import network
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom
from tests.browser import served, started
from tests.common.export.models import facts_of
from tests.server.phone.test_browsed import Opened

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

SIDE = 96
ROUNDED = 0.04
"""Of a probability. Where builds of ONNX Runtime round one value differently, what follows in 8 bits goes its own way:
the page's answers were up to 0.019 from these, and one processor's with and without fused layers 0.016 apart."""
NEAR = 0.1
"""Of a probability, in 8 bits and in single precision."""
PIXELS = f"""
const {{data}} = document.getElementById('picture').getContext('2d').getImageData(0, 0, {SIDE}, {SIDE});
return [...data];
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("phone-int8")


@pytest.fixture(scope="module")
def opened(folder: Path, runtime: dict[str, bytes]) -> Iterator[Opened]:
    try:
        model = network()
    except WeightsError:
        pytest.skip("the extra 'demo' (weights of EfficientNet-Lite0) is not installed")
    lesions = write_phantom(folder / "lesions", PhantomSpec(2, 60, size=256, seed=3))
    facts = facts_of(model, SIDE)
    write_page(folder / "page", model, facts, runtime, lesions)
    with served(folder / "page") as site, started(*site.flags, "--lang=en") as browser:
        page = Opened(browser, site, model, facts, sorted(lesions.rglob("*.jpg")), set())
        page.open()
        yield page


@pytest.fixture(scope="module")
def graph(opened: Opened, folder: Path) -> "InferenceSession":
    import onnxruntime

    assert opened.facts.image_size == SIDE
    assert "8 bits" in OnnxScorer(folder / "page" / "model.onnx").told["quantised"]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(folder / "page" / "model.onnx", options, providers=["CPUExecutionProvider"])


def answers_to(opened: Opened, graph: "InferenceSession", picture: Path) -> tuple[float, float, float]:
    """Probabilities of the page, of its graph on a processor, and of `predict`."""
    assert opened.look(picture) == "done"
    probability = float(opened.script("return document.getElementById('probability').dataset.value"))
    seen = np.array(opened.script(PIXELS), np.uint8).reshape(SIDE, SIDE, 4)[..., :3]
    (predicted,) = predictions(opened.model, SIDE, [picture])
    (answer,) = graph.run(["probability"], {"image": seen})
    return probability, float(answer[0]), predicted.probability


def check(found: list[tuple[float, float, float]]) -> None:
    probabilities, answers, predicted = np.array(found).T
    processor, predict = np.abs(probabilities - answers), np.abs(probabilities - predicted)
    assert np.ptp(probabilities) > 0.05, "the pictures are answered differently"
    assert processor.max() < ROUNDED
    assert np.corrcoef(probabilities, answers)[0, 1] > 0.9
    assert 0 < predict.max() < NEAR


def test_it_answers_as_the_same_graph_and_near_predict(opened: Opened, graph: "InferenceSession") -> None:
    check([answers_to(opened, graph, lesion) for lesion in opened.lesions[:8]])


def test_it_does_on_real_pictures(opened: Opened, graph: "InferenceSession", shared: Path) -> None:
    images = sorted((shared / "data" / "ham10000" / "images").iterdir())
    check([answers_to(opened, graph, picture) for picture in images[:160:20]])
