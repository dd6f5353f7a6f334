"""What a network costs: parameters, floating-point operations and time an image."""

from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.model.classifier import outline
from melfed.common.study.protocol import StudyProtocol

WARM, TIMED = 2, 11
LONGEST_SECONDS = 5.0
"""A network so slow is timed less often, but three times at least."""

Shape = tuple[str, int, bool, bool, int | None, str]


@dataclass(frozen=True)
class Costs:
    """What a network costs.

    Attributes:
        parameters: all of them.
        trained: those that learn.
        flops: floating-point operations of one image's forward pass (torch.utils.flop_counter: convolutions and matrix
            products; a multiplication and an addition are two).
        latency: median milliseconds of one image's forward pass, one at a time, on one CPU thread of this machine.
    """

    parameters: int
    trained: int
    flops: int
    latency: float


def shape_of(study: StudyProtocol) -> Shape:
    """Return what a network's costs depend on."""
    model = study.model
    return model.backbone, study.data.image_size, model.metadata, model.pretrained, model.neck, model.train


def costs_of(study: StudyProtocol) -> Costs:
    """Return what a study's network costs."""
    size = study.data.image_size
    whole = outline(study.model).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole(*_input(study, size, "meta"))
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in whole.parameters()]
    flops = int(counter.get_total_flops())
    return Costs(sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns), flops, _latency(study))


def _input(study: StudyProtocol, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    image = torch.zeros(1, 3, size, size, device=device)
    return image, torch.zeros(1, METADATA_FEATURES, device=device) if study.model.metadata else None


def _latency(study: StudyProtocol) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = outline(study.model).to_empty(device="cpu").eval()
        with torch.no_grad():
            for value in (*network.parameters(), *network.buffers()):
                value.fill_(0.01)  # neither subnormal nor infinite numbers, which take longer
        network = network.to(memory_format=torch.channels_last)
        image, metadata = _input(study, study.data.image_size, "cpu")
        image = image.contiguous(memory_format=torch.channels_last)
        seconds: list[float] = []
        with torch.inference_mode():
            while len(seconds) < WARM + TIMED and (len(seconds) < WARM + 3 or sum(seconds) < LONGEST_SECONDS):
                began = perf_counter()
                network(image, metadata)
                seconds.append(perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return 1000 * median(seconds[WARM:])
