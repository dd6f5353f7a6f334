"""Which part of a picture an answer came from: gradient times activation, over all channels, of the last feature map.

That is HiResCAM (Draelos and Carin 2020, arXiv 2011.08891). Where a network ends with an average over positions and a
linear head it is Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) to the last digit; where it does not, as in VGG or
behind a neck, whose features are spreads as well as means, it still says what each position adds, which Grad-CAM's
averaged gradients do not. It shows what moved the logit up, and is no proof that the answer is right.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from melfed.common.data.augmentation import to_input
from melfed.common.data.images.decoder import Pixels, decode
from melfed.common.errors import DataError, RunError
from melfed.common.files import atomic_write
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier

FloatArray = npt.NDArray[np.float32]

LEAST_SIDE: Final = 7
"""Positions a side that a map has, where any has so many: later ones of small inputs hardly say where."""
SHOWN: Final = 448
"""Pixels a side at which picture and overlay are written."""
_HOT: Final = (220, 20, 20)
_COVER: Final = 0.75


def explain(model: Classifier, image: Path, size: int, out: Path) -> None:
    """Write a PNG: the picture as the network sees it, and beside it the same with what moved the logit up in red.

    Args:
        model: the trained classifier.
        image: the picture's file.
        size: side of the network's input, pixels.
        out: the PNG; it must not exist.

    Raises:
        ImageProblem: the picture cannot be used.
        DataError: the file exists, or is to have another ending.
        RunError: the model needs more than a picture, or has no feature map.
        StorageError: the PNG cannot be written.
    """
    if out.suffix.lower() != ".png":
        raise DataError(f"--explain {out}: a PNG is written; name a file that ends in .png")
    if out.exists():
        raise DataError(f"--explain {out}: exists; name another file")
    pixels = decode(image, size)
    drawn = beside(pixels, heat(model, pixels))
    with atomic_write(out, 0o600) as file:  # it shows a patient's skin
        drawn.save(file, "PNG")


def heat(model: Classifier, pixels: Pixels) -> FloatArray:
    """Return how much each position moves the logit up, float32 (h, w), 0 to 1; all 0 where none does.

    Args:
        model: the trained classifier.
        pixels: the picture, uint8 (size, size, 3).

    Raises:
        RunError: the model needs more than a picture, or has no feature map.
    """
    if model.metadata is not None:
        raise RunError("this model needs age, sex and site; no picture is explained without a table")
    spec, device = backbone_spec(model.backbone), model.head.weight.device
    model = model.eval()
    inputs = to_input(pixels[None], spec.mean, spec.std, None, device)
    activation, gradient = _activation(model, inputs, _last_map(model, inputs))
    added = (activation * gradient).sum(1)[0].clamp_min(0).float().cpu().numpy()
    largest = float(added.max())
    return np.asarray(added / largest if largest > 0 else np.zeros_like(added), np.float32)


def beside(pixels: Pixels, heat: FloatArray) -> Image.Image:
    """Return the picture and, to its right, the same under its heat (h, w)."""
    picture = Image.fromarray(pixels).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    cover = Image.fromarray(np.uint8(255 * _COVER * heat)).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (2 * SHOWN, SHOWN))
    both.paste(picture, (0, 0))
    both.paste(Image.composite(Image.new("RGB", picture.size, _HOT), picture, cover), (SHOWN, 0))
    return both


def _last_map(model: Classifier, inputs: Tensor) -> nn.Module:
    """Return the module whose output is the last feature map that is fine enough. Raises RunError."""
    found: list[tuple[nn.Module, int]] = []

    def note(module: nn.Module, _arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3] > 1:
            found.append((module, output.shape[2]))

    hooks = [module.register_forward_hook(note) for module in model.trunk.modules()]
    try:
        with torch.inference_mode():
            model.features(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    runs = [module for module, _ in found]
    once = [(module, side) for module, side in found if runs.count(module) == 1]
    fine = [module for module, side in once if side >= LEAST_SIDE] or [module for module, _ in once]
    if not fine:
        raise RunError(f"{model.backbone}: has no feature map whose positions could be shown")
    return fine[-1]


def _activation(model: Classifier, inputs: Tensor, module: nn.Module) -> tuple[Tensor, Tensor]:
    """Return a module's output, (1, channels, h, w), and the gradient of the logit by it."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, output: Tensor) -> Tensor:
        seen.append(output)
        return output.clone()  # what comes next may work in place

    hook = module.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logit = model(inputs.requires_grad_(True))
            (gradient,) = torch.autograd.grad(logit.sum(), seen[0])
    finally:
        hook.remove()
    return seen[0].detach(), gradient
