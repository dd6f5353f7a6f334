"""Updates in fewer bytes: the difference to the global model, rounded by chance, so that it stays the same on average.

A value between two neighbours that can be told becomes the upper one with a probability that is its share of the way
from the lower: stochastic rounding, as in QSGD (Alistarh et al., arXiv 1610.02132), with a scale for each tensor.

- `float16`: 11 significant bits; an error below 2^-10 of the value (or 2^-38 of the tensor's largest difference).
- `int8`: 255 equal steps; an error below 1 / 127 of the tensor's largest difference.

What is rounded has been noised before, in a private study, and what chance adds hangs on no patient: it costs no ε.
"""

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from melfed.common.tensors import Array, TensorError, Tensors

Kind = Literal["float16", "int8"]
Compressed = dict[str, npt.NDArray[np.uint8]]
"""Of each tensor by its name: the scale (float32) and then all values in units of it, little-endian, in C order."""

BLOCK = 1 << 16
_SCALE: Final = np.dtype("<f4")
_TYPES: Final = {"float16": np.dtype("<f2"), "int8": np.dtype("i1")}
_LEVELS: Final = 127
_LARGEST_HALF: Final = 2.0**15
_BITS, _FINEST = 11, -24
"""Of float16: significant bits, and the exponent of the distance of its smallest numbers."""


def compressed(update: Mapping[str, Array], model: Mapping[str, Array], kind: Kind, seed: int) -> Compressed:
    """Return an update as it travels.

    Args:
        update: float32; values that are not finite make a scale that is not.
        model: the global model that it began from, the same names and shapes.
        kind: how values are told.
        seed: of the chance; another one for each clinic and round, so that errors even out.

    >>> model = {"head": np.zeros(3, np.float32)}
    >>> sent = compressed({"head": np.array([0.5, -1.0, 0.0], np.float32)}, model, "int8", seed=0)
    >>> sent["head"].nbytes, restored(sent, model, "int8")["head"].round(2).tolist()
    (7, [0.5, -1.0, 0.0])
    """
    generator = np.random.default_rng(seed)
    return {
        name: _told(tensor.reshape(-1), model[name].reshape(-1), kind, generator) for name, tensor in update.items()
    }


def restored(sent: Mapping[str, npt.NDArray[np.generic]], model: Mapping[str, Array], kind: Kind) -> Tensors:
    """Return the update that travelled, float32; its values are not checked for being finite.

    Args:
        sent: what came, from outside.
        model: the global model that the update began from.
        kind: how values are told.

    Raises:
        TensorError: names the first tensor that is missing, unknown, or of other bytes than it must have.
    """
    if odd := sorted(sent.keys() ^ model.keys()):
        raise TensorError(f"tensor {odd[0]} is {'missing' if odd[0] in model else 'none of the model'}")
    return {name: _update(name, sent[name], tensor, kind) for name, tensor in model.items()}


def _told(update: Array, model: Array, kind: Kind, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    sent = np.empty(_SCALE.itemsize + update.size * _TYPES[kind].itemsize, np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        largest = max((float(np.abs(update[part] - model[part]).max()) for part in _parts(update.size)), default=0.0)
        scale = _scale(largest, kind)
    sent[: _SCALE.itemsize].view(_SCALE)[0] = scale
    values = sent[_SCALE.itemsize :].view(_TYPES[kind])
    if not 0 < scale < np.inf:
        values[:] = 0
        return sent
    for part in _parts(update.size):
        scaled = (update[part] - model[part]).astype(np.float64) / float(scale)
        chance = generator.random(scaled.size, np.float32)
        if kind == "int8":
            values[part] = np.floor(scaled + chance)
        else:
            step = np.ldexp(1.0, np.maximum(np.frexp(scaled)[1] - _BITS, _FINEST))
            values[part] = np.floor(scaled / step + chance) * step
    return sent


def _scale(largest: float, kind: Kind) -> np.float32:
    """Return the unit of a tensor's values; not finite where the largest difference is not."""
    if kind == "int8":
        # A hair more, so that no value is beyond the last level.
        return np.nextafter(np.float32(largest / _LEVELS), np.float32(np.inf)) if largest else np.float32(0)
    mantissa, exponent = np.frexp(largest)
    return np.float32(np.ldexp(1.0, int(exponent)) / _LARGEST_HALF if mantissa and np.isfinite(largest) else largest)


def _update(name: str, sent: npt.NDArray[np.generic], model: Array, kind: Kind) -> Array:
    size = _SCALE.itemsize + model.size * _TYPES[kind].itemsize
    if sent.dtype != np.uint8 or sent.shape != (size,):
        raise TensorError(f"tensor {name} came as {sent.dtype} of shape {sent.shape}, not as {size} bytes of {kind}")
    content = np.frombuffer(sent.tobytes(), np.uint8)
    scale = np.float32(content[: _SCALE.itemsize].view(_SCALE)[0])
    if not 0 <= scale < np.inf:
        raise TensorError(f"tensor {name} holds values that are not finite")
    with np.errstate(over="ignore", invalid="ignore"):
        change = content[_SCALE.itemsize :].view(_TYPES[kind]).astype(np.float32)
        change *= scale
        change += model.reshape(-1)
    return change.reshape(model.shape)


def _parts(size: int) -> Iterator[slice]:
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))
