"""What both ends of a message between coordinator and clinic agree on: its kinds, its records, and how tensors travel.

A request holds `REQUEST` (`round`, `digest`, `run`, `study`, `protocol`, `counts`) and, after the first, `TENSORS`. An
answer to `DESCRIBE` holds `IDENTITY` (`clinic`, `digest`, `version`; `budget`, `approved` where the clinic tells) and
`COUNTS`. One to `TRAIN` holds what names its request, `TENSORS`, `METRICS` (`weight`; `loss` without privacy) and
`VALIDATION`; one to `SUMMARISE` holds the moments of `MOMENTS` and `VALIDATION`; one to `EVALUATE` holds `VALIDATION`
and `TEST`. All three hold `ACCOUNT` (`epsilon`, `noise_multiplier`,
`evaluation`) and `LEDGER` (`head`) in a private study. Where there is no answer, `REFUSED` or `DECLINED` hold `reason`.
"""

from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from melfed.common.tensors import TensorError, from_bytes, to_bytes

MESSAGE_VERSION: Final = 2
"""Version of the requests and answers; either side refuses another. 2: a clinic is first asked whether it can end the
run, without counts, and its counts are noised counts of units."""

DESCRIPTION: Final = "describe"
SUMMARY: Final = "summarise"
DESCRIBE, TRAIN, EVALUATE, SUMMARISE = f"query.{DESCRIPTION}", "train", "evaluate", f"query.{SUMMARY}"
"""What clinics are asked for: the messages' types."""

REQUEST, TENSORS, IDENTITY, COUNTS, METRICS = "request", "tensors", "identity", "counts", "metrics"
VALIDATION, TEST, ACCOUNT, LEDGER = "validation", "test", "account", "ledger"
REFUSED, DECLINED = "refused", "declined"
"""Names of a message's records."""

MOMENTS: Final = "train"
SUMMARISED: Final = (MOMENTS, VALIDATION)
"""Records of an answer with moments: those of the training and of the validation part."""

PACKED: Final = "safetensors"
"""Name of the one array of a record of tensors."""


class _Array(Protocol):
    def numpy(self) -> npt.NDArray[np.generic]: ...


def pack(tensors: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.uint8]:
    """Return tensors as the bytes of one safetensors file, shape (bytes,): the array `PACKED` of a record.

    Flower carries every array of a record in at least two requests of its own, each signed, checked and written to the
    server's database: as one array, a model of many tensors travels many times as fast. Raises TensorError.
    """
    return np.frombuffer(to_bytes(tensors), np.uint8)


def unpack(name: str, record: Mapping[str, _Array]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors that were packed into a record from outside, none of an empty one.

    Args:
        name: the record's, for the error.
        record: of Flower.

    Raises:
        TensorError: it holds something else.
    """
    if not record:
        return {}
    try:
        packed = record[PACKED].numpy()
    except Exception as error:  # noqa: BLE001 (bytes from outside: NumPy lets its tokenizer's and allocator's out)
        raise TensorError(f"{name} cannot be read: {error}") from None
    # What looks like a zip file is read as an archive.
    if not isinstance(packed, np.ndarray):
        raise TensorError(f"{name} cannot be read: not an array")
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise TensorError(f"tensors cannot be read: packed as {packed.dtype} of shape {packed.shape}, not as bytes")
    return from_bytes(packed.tobytes())
