"""A tiny network with weights made for attacks, and the models that a hostile coordinator sends for it.

It is the paper's simple network with its last convolution and its head left to learn; what comes before is the same at
every clinic, is given as a file of pretrained weights, and tells a white picture (`WHITE` at the end) from a black one
(0). All weights are finite and pass every check of what arrives.
"""

from pathlib import Path
from typing import Final

import numpy as np
import safetensors.numpy

from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import SimpleCNN
from melfed.common.tensors import Array, Tensors

BACKBONE: Final = "simple_cnn"
SIDE: Final = 32
"""Of the pictures, in pixels."""
WHITE: Final = 100.0
"""What the layers that learn see of a white picture."""
CENTRE: Final = 2
"""The tap of a kernel of 4 that sees the output's own position."""
LAST: Final = "trunk.features.12"
UNLIKELY: Final = -8.0
"""Logit of those whom a model tells nothing about."""


def write_weights(folder: Path) -> Path:
    """Write the frozen layers' weights to a folder, under a name that they are found by; returns the file."""
    spec = BACKBONES[BACKBONE]
    white = sum((1 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True))
    state = {name: np.zeros(value.shape, np.float32) for name, value in SimpleCNN().state_dict().items()}
    for number, layer in enumerate(("features.0", "features.3", "features.6", "features.9")):
        kernel = state[f"{layer}.weight"]
        if number == 0:
            kernel[0, :, CENTRE, CENTRE] = WHITE / white
        else:
            kernel[0, 0, CENTRE, CENTRE] = 1.0
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{BACKBONE}-audit.safetensors"
    safetensors.numpy.save_file(state, file)
    return file


def blind() -> Tensors:
    """Return a model that sees no picture: each positive pulls the head's bias by the whole clipping norm."""
    return _model(last=0.0, last_bias=-1.0, head=0.0)


def silencing() -> Tensors:
    """Return a model that is sure of positives with a white picture, and so learns nothing from them."""
    return _model(last=1.0, last_bias=-1.0, head=10.0)


def overflowing() -> Tensors:
    """Return a model whose gradient, of a positive with a white picture, is beyond single precision.

    Its logit is far below 0, its gradient at the last convolution's output of the order of the head's weight, 3e37, and
    100 times that at the convolution's weights: with many images these are summed one by one.
    """
    return _model(last=1e-30, last_bias=0.0, head=-3e37)


def infinite() -> Tensors:
    """Return a model that computes infinite features of a white picture, of finite weights, unless dropout hides them.

    The logit is -∞, its gradient finite, and the gradient of the head's weight infinite.
    """
    model = _model(last=0.0, last_bias=0.0, head=-1.0)
    model[f"{LAST}.weight"][0, 0, CENTRE, CENTRE] = 3e38
    return model


def huge() -> Tensors:
    """Return a model whose gradient, of a positive with a white picture, is long, but finite in single precision."""
    return _model(last=1e-30, last_bias=0.0, head=-3e33)


def tiny() -> Tensors:
    """Return a model whose gradient, of a positive with a white picture, has parts near the smallest numbers."""
    return _model(last=1e-30, last_bias=0.0, head=-1e-40)


def _model(last: float, last_bias: float, head: float) -> Tensors:
    kernel: Array = np.zeros((11, 11, 4, 4), np.float32)
    kernel[:, 0, CENTRE, CENTRE] = last
    return {
        f"{LAST}.weight": kernel,
        f"{LAST}.bias": np.full(11, last_bias, np.float32),
        "head.weight": np.full((1, 11), head, np.float32),
        "head.bias": np.array([UNLIKELY], np.float32),
    }
