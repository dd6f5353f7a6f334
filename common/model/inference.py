"""Running a classifier over images: devices, micro-batches, logits."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from melfed.common.data.augmentation import to_input
from melfed.common.data.dataset import Images
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier

Advance = Callable[[int], None]

# On a CPU a step is fastest while a micro-batch's activations stay in the last-level cache: with EfficientNet-Lite0 at
# 128 px, 16 images at a time took 0.57 of the time an image that 64 did.
CPU_MICRO_BATCH_PIXELS = 16 * 128**2
GPU_MICRO_BATCH_PIXELS = 256 * 224**2


def pick_device(name: str | None = None) -> torch.device:
    """Return the named device, or CUDA where there is one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision (bfloat16) on CUDA; none on a CPU, where it was slower than float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def micro_batch_size(image_size: int, device: torch.device) -> int:
    """Return how many images of a side (pixels) suit the device at once: a power of two."""
    pixels = CPU_MICRO_BATCH_PIXELS if device.type == "cpu" else GPU_MICRO_BATCH_PIXELS
    return power_of_two(pixels // image_size**2)


def power_of_two(most: int) -> int:
    """Return the largest power of two that is at most so many, and at least 4.

    Of other numbers of rows, kernels compute the last ones in another way than the rest, and round otherwise
    (`melfed.client.privacy.calls`).
    """
    return max(4, 1 << (most.bit_length() - 1)) if most > 0 else 4


def micro_batches(indices: npt.NDArray[np.int64], image_size: int, device: torch.device) -> list[npt.NDArray[np.int64]]:
    """Split a batch into parts that suit the device; gradients of the parts add up, so the step is the same."""
    size = micro_batch_size(image_size, device)
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def logits_of(
    model: Classifier,
    images: Images,
    indices: npt.NDArray[np.int64],
    generator: torch.Generator | None,
    device: torch.device,
) -> torch.Tensor:
    """Return the model's logits, shape (k,), for some images; augmented where a generator is given.

    They are float32, and float64 in torch's inference mode (`Classifier.logits`).
    """
    backbone = backbone_spec(model.backbone)
    inputs = to_input(images.pixels(indices), backbone.mean, backbone.std, generator, device)
    metadata = torch.from_numpy(images.metadata[indices]).to(device) if model.metadata is not None else None
    with autocast(device):
        logits: torch.Tensor = model(inputs, metadata)
    return at_least_single(logits)


def at_least_single(logits: torch.Tensor) -> torch.Tensor:
    """Return logits of autocast's half precision as float32, and others as they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def score(
    model: Classifier, images: Images, image_size: int, device: torch.device, on_progress: Advance | None = None
) -> npt.NDArray[np.float64]:
    """Return the logit of a positive for every image, in double precision, shape (n,)."""
    scores = np.empty(len(images))
    done = 0
    model.eval()
    with torch.inference_mode():
        for part in micro_batches(np.arange(len(images)), image_size, device):
            scores[part] = logits_of(model, images, part, None, device).cpu().numpy()
            done += len(part)
            if on_progress:
                on_progress(done)
    return scores
