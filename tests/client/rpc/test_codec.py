"""An answer on its way through the worker's socket."""

import numpy as np
import pytest

from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.codec import Packed
from melfed.common.tensors import TensorError

ARRAYS = {
    "tensors/w": np.arange(300_000, dtype=np.float32),
    "validation/low": np.array([1.0]),
    "tensors/b": np.zeros((0, 2), np.float32),
}


def parts_of(files: list[bytes]) -> list[bytes]:
    return [part for content in files for part in wire.parts(content)]


def test_each_group_is_a_file_that_comes_back_as_it_was() -> None:
    head, files = wire.send(Packed(pb.Answer(clinic="north", weight=7), ARRAYS))
    assert [(group.name, group.size) for group in head.groups] == [
        ("tensors", len(files[0])),
        ("validation", len(files[1])),
    ]
    sent = wire.receive(head, parts_of(files))
    assert [held.content for held in sent.groups.values()] == files, "not a byte was read or made anew"
    assert (sent.head.clinic, sent.head.weight) == ("north", 7)
    assert {f"{group}/{name}" for group, held in sent.groups.items() for name in held} == set(ARRAYS)
    np.testing.assert_array_equal(sent.groups["tensors"]["w"], ARRAYS["tensors/w"])


def test_of_a_reply_the_tensors_are_passed_on_unread() -> None:
    head, files = wire.send(Packed(pb.Answer(), {"tensors/w": ARRAYS["tensors/w"]}))
    reply = wire.unpack_trained(wire.receive(head, [b"x" * len(files[0])]))
    with pytest.raises(TensorError, match="cannot be read"):
        reply.tensors["w"]


@pytest.mark.parametrize("change", [-1, 1])
def test_other_bytes_than_were_said_are_refused(change: int) -> None:
    head, files = wire.send(Packed(pb.Answer(), ARRAYS))
    content = b"".join(files)
    with pytest.raises(TensorError, match="bytes came, not"):
        wire.receive(head, [content[:change] if change < 0 else content + b"!"])


def test_more_than_may_be_is_refused_before_it_comes() -> None:
    groups = [pb.Group(name=name, size=wire.MOST_TENSOR_BYTES) for name in ("tensors", "validation")]
    with pytest.raises(TensorError, match="are too many"):
        wire.receive(pb.Answer(groups=groups), iter([]))
