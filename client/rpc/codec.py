"""How questions and answers travel on the worker's socket: `client/rpc/worker.proto`, with tensors as safetensors in
parts.

Both ends use these functions, and the worker's outbox stores answers in the same form.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.api import Description, PrivacyAccount, Scored, Summarised, TrainReply
from melfed.common import errors
from melfed.common.errors import BudgetError, DeclinedError, MelfedError, ServiceError
from melfed.common.messages import LOCAL, SUBGROUPS, SUMMARISED, TENSORS, TEST, VALIDATION
from melfed.common.metrics.noisy_histogram import histogram_from_arrays, histograms_from_arrays
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.common.tensors import PackedTensors, TensorError, group_of, in_group, to_bytes

PART_BYTES = 1 << 20
"""Largest part of tensors in one message."""
MOST_TENSOR_BYTES = 2 << 30
"""Of a question or an answer: what is larger is no model of ours, and would fill the memory."""
PARTS_SCORED = (VALIDATION, TEST, LOCAL)
GROUPS = tuple(dict.fromkeys((TENSORS, *SUMMARISED, *PARTS_SCORED, SUBGROUPS)))
"""Records of arrays of an answer, in the order in which they travel."""
Arrays = Mapping[str, npt.NDArray[np.generic]]

_CLASSES: dict[str, type[MelfedError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, MelfedError)
} | {"TensorError": TensorError}


@dataclass(frozen=True)
class Packed:
    """An answer as it is stored: the head, and the tensors by name (`tensors/NAME`, `validation/NAME`)."""

    head: pb.Answer
    arrays: Arrays


@dataclass(frozen=True)
class Sent:
    """An answer as it travels: the head, which says the sizes, and the tensors of each group, as they came."""

    head: pb.Answer
    groups: Mapping[str, PackedTensors]


def send(packed: Packed) -> tuple[pb.Answer, list[bytes]]:
    """Return an answer's head as it travels, and the safetensors files that follow. Raises TensorError."""
    head = pb.Answer()
    head.CopyFrom(packed.head)
    files = []
    for name in GROUPS:
        if arrays := group_of(name, packed.arrays):
            files.append(to_bytes(arrays))
            head.groups.add(name=name, size=len(files[-1]))
    return head, files


def receive(head: pb.Answer, parts: Iterable[bytes]) -> Sent:
    """Return the answer that `send` made, from its head and the parts that follow it. Raises TensorError."""
    content = memoryview(join(sum(group.size for group in head.groups), parts))
    groups: dict[str, PackedTensors] = {}
    start = 0
    for group in head.groups:
        groups[group.name] = PackedTensors(bytes(content[start : start + group.size]))
        start += group.size
    return Sent(head, groups)


def pack_trained(reply: TrainReply, clinic: str) -> Packed:
    """Return the packed answer to one round."""
    head = pb.Answer(clinic=clinic, weight=reply.weight, loss=reply.loss)
    _set_account(head, reply.account)
    arrays = in_group(TENSORS, reply.tensors)
    if reply.validation is not None:
        arrays |= in_group(VALIDATION, reply.validation.to_arrays())
    return Packed(head, arrays)


def unpack_trained(sent: Sent) -> TrainReply:
    """Return what `pack_trained` was given; its tensors are not read. Raises DataError where a histogram is none."""
    head = sent.head
    validation = sent.groups.get(VALIDATION)
    return TrainReply(
        sent.groups.get(TENSORS, {}),
        head.weight,
        head.loss if head.HasField("loss") else None,
        histogram_from_arrays(validation) if validation else None,
        account_of(head),
    )


def pack_scored(scored: Scored, account: PrivacyAccount | None, clinic: str) -> Packed:
    """Return the packed answer to an evaluation."""
    head = pb.Answer(clinic=clinic)
    _set_account(head, account)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for part, histogram in scored.items():
        arrays |= in_group(part, histogram.to_arrays())
    return Packed(head, arrays)


def unpack_scored(sent: Sent) -> Scored:
    """Return the histograms that `pack_scored` was given. Raises DataError where one is none."""
    parts = {part: histogram_from_arrays(sent.groups[part]) for part in PARTS_SCORED if part in sent.groups}
    cells = histograms_from_arrays(sent.groups.get(SUBGROUPS, {}))
    return {**parts, **{f"{SUBGROUPS}/{cell}": histogram for cell, histogram in cells.items()}}


def pack_summarised(summarised: Summarised, account: PrivacyAccount | None, clinic: str) -> Packed:
    """Return the packed moments of a clinic."""
    head = pb.Answer(clinic=clinic)
    _set_account(head, account)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for part, moments in summarised.items():
        arrays |= in_group(part, moments.to_arrays())
    return Packed(head, arrays)


def unpack_summarised(sent: Sent) -> Summarised:
    """Return the moments that `pack_summarised` was given. Raises DataError where some are none."""
    return {part: NoisyMoments.from_arrays(sent.groups.get(part, {})) for part in SUMMARISED}


def account_of(head: pb.Answer) -> PrivacyAccount | None:
    """Return the account that goes with an answer."""
    if not head.HasField("account"):
        return None
    sent = head.account
    evaluation = sent.evaluation_noise_multiplier if sent.HasField("evaluation_noise_multiplier") else None
    return PrivacyAccount(sent.epsilon, sent.head, sent.noise_multiplier, evaluation)


def pack_description(description: Description) -> pb.Description:
    """Return a description as it travels."""
    return pb.Description(
        clinic=description.clinic,
        digest=description.digest,
        counts=description.counts,
        count_noise=description.count_noise,
        version=description.version,
        budget=description.budget,
        approved=description.approved,
        synthetic=description.synthetic,
        round_minutes=description.round_minutes,
    )


def unpack_description(sent: pb.Description) -> Description:
    """Return what `pack_description` was given."""
    budget = sent.budget if sent.HasField("budget") else None
    minutes = sent.round_minutes if sent.HasField("round_minutes") else None
    said = (sent.version, budget, tuple(sent.approved), sent.count_noise, sent.synthetic, minutes)
    return Description(sent.clinic, sent.digest, dict(sent.counts), *said)


def pack_failure(error: MelfedError, clinic: str) -> pb.Failure:
    """Return an error as it travels; `melfed.common.errors` and TensorError keep their class, others become
    ServiceError.

    What it is may leave: `melfed.client.worker.disclosure` has seen to that.
    """
    kind = DeclinedError.__name__ if isinstance(error, BudgetError) else type(error).__name__
    return pb.Failure(kind=kind if kind in _CLASSES else ServiceError.__name__, reason=str(error), clinic=clinic)


def unpack_failure(sent: pb.Failure) -> MelfedError:
    """Return the error that was packed."""
    return _CLASSES.get(sent.kind, ServiceError)(sent.reason)


def parts(content: bytes) -> Iterator[bytes]:
    """Cut bytes into the parts that travel."""
    view = memoryview(content)
    for start in range(0, len(content), PART_BYTES):
        yield bytes(view[start : start + PART_BYTES])


def join(size: int, received: Iterable[bytes]) -> bytes:
    """Put the parts together again. Raises TensorError where they are not as many bytes as was said, or too many."""
    if size > MOST_TENSOR_BYTES:
        raise TensorError(f"tensors of {size} bytes are too many; at most {MOST_TENSOR_BYTES} are taken")
    kept, held = [], 0
    for part in received:
        held += len(part)
        if held > size:
            break
        kept.append(part)
    if held != size:
        raise TensorError(f"tensors cannot be read: {held} bytes came, not {size}")
    return b"".join(kept)


def seconds_of(question: pb.Question) -> float:
    """Return how long an answer is of use, in seconds; a week at most, and none for what is no number."""
    seconds = question.deadline_seconds
    return min(max(seconds, 0.0), 7 * 86_400.0) if math.isfinite(seconds) else 0.0


def _set_account(head: pb.Answer, account: PrivacyAccount | None) -> None:
    if account is None:
        return
    fields: dict[str, Any] = {
        "epsilon": account.epsilon,
        "head": account.head,
        "noise_multiplier": account.noise_multiplier,
        "evaluation_noise_multiplier": account.evaluation_noise_multiplier,
    }
    head.account.CopyFrom(pb.Account(**fields))
