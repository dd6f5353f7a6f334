"""Updates block by block, so that rules over all of a round's need little memory beside them."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from melfed.common.tensors import Array, Tensors

BLOCK = 1 << 16
"""Values of each update that are worked on at a time."""

Float64 = npt.NDArray[np.float64]


def by_value(updates: Sequence[Tensors], reduce: Callable[[Float64], Float64]) -> Tensors:
    """Reduce n values to one at each place of the model."""
    result: Tensors = {}
    for name, first in updates[0].items():
        blocks = [reduce(block) for block in stacks([update[name] for update in updates])]
        flat = np.concatenate(blocks) if blocks else np.zeros(0)
        result[name] = flat.astype(np.float32).reshape(first.shape)
    return result


def stacks(tensors: Sequence[Array]) -> Iterator[Float64]:
    """Yield the same block of every tensor, as rows (n, values)."""
    for parts in zip(*(blocks(tensor) for tensor in tensors), strict=True):
        yield np.stack(parts).astype(np.float64)


def blocks(tensor: Array) -> Iterator[Array]:
    """Yield a tensor's values, `BLOCK` at a time."""
    flat = tensor.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]
