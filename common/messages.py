"""What both ends of a message between coordinator and clinic agree on: its kinds, its records, and how tensors travel.

A request holds `REQUEST` (`round`, `digest`, `run`, `study`, `protocol`, `counts`) and, after the first, `TENSORS`. An
answer to `DESCRIBE` holds `IDENTITY` (`clinic`, `digest`, `version`, `synthetic`; `budget`, `approved`,
`round_minutes` where the clinic tells) and `COUNTS`. One to `TRAIN` holds what names its request, `TENSORS`, `METRICS`
(`weight`; `loss` without privacy) and `VALIDATION`; one to `SUMMARISE` holds the moments of `MOMENTS` and
`VALIDATION`; one to `EVALUATE` holds `VALIDATION`, `TEST` and, where the study asks for them, `SUBGROUPS` and `LOCAL`.
All three hold `ACCOUNT` (`epsilon`, `noise_multiplier`, `evaluation`) and `LEDGER` (`head`) in a private study. One to
`DELIVER`, whose request holds `MODEL` (`facts`, `signature`, `certificate`) and the `TENSORS` that learnt, holds
`MODEL` (`clinic`) alone. Where there is no answer, `REFUSED` or `DECLINED` hold `reason`.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from melfed.common.tensors import PackedTensors, TensorError, to_bytes, views

MESSAGE_VERSION: Final = 3
"""Version of the requests and answers; either side refuses another. 2: a clinic is first asked whether it can end the
run, without counts, and its counts are noised counts of units. 3: tensors are the bytes of safetensors themselves."""

DESCRIPTION: Final = "describe"
SUMMARY: Final = "summarise"
DELIVERY: Final = "deliver"
DESCRIBE, TRAIN, EVALUATE, SUMMARISE = f"query.{DESCRIPTION}", "train", "evaluate", f"query.{SUMMARY}"
DELIVER: Final = f"query.{DELIVERY}"
"""What clinics are asked for: the messages' types."""

REQUEST, TENSORS, IDENTITY, COUNTS, METRICS = "request", "tensors", "identity", "counts", "metrics"
VALIDATION, TEST, ACCOUNT, LEDGER = "validation", "test", "account", "ledger"
SUBGROUPS: Final = "subgroups"
"""Of an answer to `EVALUATE`: histograms of the test part by cell, their arrays named `ATTRIBUTE/NUMBER/ARRAY`."""
LOCAL: Final = "local"
"""Of an answer to `EVALUATE`: the test part's histogram of the model that a clinic has trained alone."""
REFUSED, DECLINED = "refused", "declined"
MODEL: Final = "model"
"""Names of a message's records."""

MOMENTS: Final = "train"
SUMMARISED: Final = (MOMENTS, VALIDATION)
"""Records of an answer with moments: those of the training and of the validation part."""

PROCESS_HEADER: Final = "melfed-process"
"""HTTP header of a clinic's requests: which process asks, by a name that it drew at random when it started."""

PACKED: Final = "safetensors"
"""Name of the one array of a record of tensors, and of the form of its bytes (Flower's `stype`)."""


class _Array(Protocol):
    @property
    def stype(self) -> str: ...

    @property
    def data(self) -> bytes: ...  # or a memoryview of a file, of an array that a reply was read into


def pack(tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Any]:
    """Return what Flower's array `PACKED` of a record of tensors is made of: the bytes of one safetensors file.

    Flower carries every array of a record in at least two requests of its own, each signed, checked and stored at the
    server: as one array, a model of many tensors travels many times as fast. The bytes are the array's data as they
    are, not NumPy's file of them, which would be a copy at either end. Those of packed tensors may be a file in memory,
    a memoryview. Raises TensorError.
    """
    content = tensors.content if isinstance(tensors, PackedTensors) else to_bytes(tensors)
    return {"dtype": "uint8", "shape": (len(content),), "stype": PACKED, "data": content}


def unpack(name: str, record: Mapping[str, _Array]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the tensors that were packed into a record from outside, as views of its bytes; none of an empty one.

    Args:
        name: the record's, for the error.
        record: of Flower.

    Raises:
        TensorError: it holds something else.
    """
    return views(packed_bytes(name, record)) if record else {}


def packed_bytes(name: str, record: Mapping[str, _Array]) -> bytes:
    """Return the safetensors file of a record from outside, not read yet. Raises TensorError as `unpack`."""
    packed = record.get(PACKED)
    if packed is None or packed.stype != PACKED:
        found = "nothing" if packed is None else repr(packed.stype[:40])
        raise TensorError(f"{name} cannot be read: it holds {found}, not {PACKED}")
    return packed.data
