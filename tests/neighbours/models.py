"""Models made by hand, each for one of the holes that melfed once had."""

import numpy as np

from melfed.common.tensors import Tensors

Wanted = dict[str, float | np.ndarray]


def with_values(own: Tensors, wanted: Wanted) -> Tensors:
    """Return a model with some tensors replaced; a number fills the whole tensor."""
    replaced = {name: np.broadcast_to(np.float32(value), own[name].shape).copy() for name, value in wanted.items()}
    return {**own, **replaced}


def overflowing(own: Tensors) -> Tensors:
    """Return a model of `simple_cnn` with a finite output, and gradients beyond single precision, all of one sign."""
    head = np.full_like(own["head.weight"], -1e25)
    return with_values(own, {"trunk.features.0.bias": 1e20, "head.weight": head})


def ordinary(own: Tensors, seed: int = 1) -> Tensors:
    """Return a model that tells images apart, somewhat."""
    random = np.random.default_rng(seed)
    spread = {name: (1.0 if name == "head.weight" else 0.05) for name in own}
    return {name: (t + random.normal(0, spread[name], t.shape)).astype(np.float32) for name, t in own.items()}


def twins(own: Tensors, scale: float, *, layer: str, after: str) -> Tensors:
    """Return a model that sees nothing but how numbers were rounded, as it computes each twice, and subtracts.

    Whatever computes a patient in another way in other company then turns that one's gradient.

    Args:
        own: any.
        scale: of what is left.
        layer: a layer of which half of the outputs become three times the other half.
        after: the next layer, which subtracts three times the ones from the others.
    """
    weight, bias = own[f"{layer}.weight"].copy(), own[f"{layer}.bias"].copy()
    half = len(weight) // 2
    weight[half : 2 * half], bias[half : 2 * half] = 3 * weight[:half], 3 * bias[:half]
    difference = own[f"{after}.weight"].copy()
    difference[:, half : 2 * half] = -scale * difference[:, :half]
    difference[:, :half] *= 3 * scale
    difference[:, 2 * half :] = 0
    return {**own, f"{layer}.weight": weight, f"{layer}.bias": bias, f"{after}.weight": difference}


def alike(own: Tensors, size: float = 0.01) -> Tensors:
    """Return a model of `squeezenet1_1` in which the gradient of one wide convolution has entries of equal size.

    Args:
        own: any of that backbone.
        size: of all weights.
    """
    wide = {"trunk.features.4.squeeze.bias": 1e6}
    wide |= {name: 1e-6 * size for name in own if name.startswith("trunk.features.4.expand")}
    return with_values(own, {**dict.fromkeys(own, size), "head.weight": -size, "head.bias": -size, **wide})


def at_the_edge(own: Tensors, exponent: float) -> Tensors:
    """Return a model with metadata whose gradients are so long that C over their norm is a number of few bits.

    Args:
        own: of a study with metadata.
        exponent: decimal, of the head's weights behind the metadata: the norm grows with it.
    """
    head = own["head.weight"].copy()
    head[:, -16:] = -(10.0**exponent)
    branch = {"metadata.0.weight": 0.0, "metadata.0.bias": 1e38, "metadata.2.weight": 1e-38, "metadata.2.bias": 0.0}
    return with_values(own, {**branch, "head.weight": head})
