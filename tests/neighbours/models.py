"""Models made by hand, each for one of the holes that melfed once had."""

import numpy as np

from common.tensors import Tensors

Wanted = dict[str, float | np.ndarray]


def with_values(own: Tensors, wanted: Wanted) -> Tensors:
    """Return a model with some tensors replaced; a number fills the whole tensor."""
    replaced = {name: np.broadcast_to(np.float32(value), own[name].shape).copy() for name, value in wanted.items()}
    return {**own, **replaced}


def overflowing(own: Tensors) -> Tensors:
    """Return a model of `simple_cnn` with a finite output, and gradients beyond single precision, all of one sign."""
    head = np.full_like(own["head.weight"], -1e25)
    return with_values(own, {"trunk.features.9.bias": 1e20, "head.weight": head})


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
