"""Stored answers come back bit for bit to their own question, the newest few are kept, and damage counts as absence."""

import errno
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.codec import Packed
from melfed.client.worker.outbox import Outbox
from melfed.common.errors import StorageError

ARRAYS = {"tensors/w": np.array([[0.1, -0.0, 1e-42]], np.float32), "validation/groups": np.array([3, -1, 2**62])}


def key(number: int) -> str:
    return f"{number:064x}"[::-1]


def answer(images: int = 120, arrays: dict[str, np.ndarray] | None = None) -> Packed:
    head = pb.Answer(clinic="north", weight=images, loss=0.1)
    head.account.epsilon = float("inf")
    head.account.head = "a" * 64
    return Packed(head, ARRAYS if arrays is None else arrays)


def same(found: Packed | None, kept: Packed) -> bool:
    assert found is not None
    assert found.head == kept.head
    assert found.arrays.keys() == kept.arrays.keys()
    return all(
        (found.arrays[n].dtype, found.arrays[n].shape, found.arrays[n].tobytes()) == (a.dtype, a.shape, a.tobytes())
        for n, a in kept.arrays.items()
    )


def test_an_answer_is_found_by_its_question_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    assert outbox.find("train", key(1)) is None
    outbox.save("train", key(1), answer())
    assert same(outbox.find("train", key(1)), answer())
    assert same(Outbox(tmp_path / "outbox").find("train", key(1)), answer())
    assert outbox.find("train", key(2)) is None
    assert outbox.find("evaluate", key(1)) is None
    # The name of the file holds half of the key alone.
    assert outbox.find("train", key(1)[:32] + "f" * 32) is None


arrays = st.dictionaries(
    st.text("abc./_é", min_size=1, max_size=6),
    hnp.arrays(
        st.sampled_from([np.float32, np.int64]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    ),
    max_size=3,
)


@settings(max_examples=25, deadline=None)
# Of numbers that are none, protobuf keeps that they are none, and not which.
@given(arrays, st.integers(0, 2**63), st.floats(allow_nan=False) | st.just(math.nan), st.text(max_size=5))
def test_any_answer_comes_back(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, np.ndarray], images: int, loss: float, clinic: str
) -> None:
    outbox = Outbox(tmp_path_factory.mktemp("outbox"))
    kept = Packed(pb.Answer(weight=images, loss=loss, clinic=clinic), content)
    outbox.save("train", key(1), kept)
    found = outbox.find("train", key(1))
    assert found is not None
    assert found.head.SerializeToString() == kept.head.SerializeToString()
    assert same(Packed(kept.head, found.arrays), kept)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    Outbox(tmp_path / "a" / "outbox").save("train", key(1), answer())
    assert (tmp_path / "a" / "outbox").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a" / "outbox").iterdir()] == [0o600]


def test_of_each_kind_the_newest_few_are_kept(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, kept=2)
    outbox.save("evaluate", key(1), answer())
    for number in (3, 1, 2):
        outbox.save("train", key(number), answer(number))
        time.sleep(0.01)
    assert outbox.find("train", key(3)) is None
    assert all(same(outbox.find("train", key(number)), answer(number)) for number in (1, 2))
    assert outbox.find("evaluate", key(1)) is not None
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_a_damaged_answer_is_none(tmp_path: Path, cut: int) -> None:
    outbox = Outbox(tmp_path)
    outbox.save("train", key(1), answer())
    path = next(tmp_path.iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    assert outbox.find("train", key(1)) is None
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert outbox.find("train", key(1)) is None
    outbox.save("train", key(1), answer())
    assert same(outbox.find("train", key(1)), answer())


def test_an_answer_of_another_version_is_none(tmp_path: Path) -> None:
    from melfed.client.worker.reply_store import ReplyStore

    outbox = Outbox(tmp_path)
    ReplyStore(outbox._path("train", key(1))).save(key(1), ARRAYS, {"head": '{"unknown": 1}'})
    assert outbox.find("train", key(1)) is None
    ReplyStore(outbox._path("train", key(1))).save(key(1), ARRAYS, {})
    assert outbox.find("train", key(1)) is None


def test_what_a_killed_worker_left_is_removed_and_answers_are_not(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.save("train", key(1), answer())
    (tmp_path / f".{outbox._path('train', key(2)).name}.0a1b2c3d").write_bytes(b"half")
    Outbox(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [outbox._path("train", key(1)).name]


def test_a_full_disk_is_one_line_and_the_last_answers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path, kept=1)
    outbox.save("train", key(1), answer())

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device; free space and try again"):
            outbox.save("train", key(2), answer(2))
    assert same(outbox.find("train", key(1)), answer())
    assert outbox.find("train", key(2)) is None
    assert len(list(tmp_path.iterdir())) == 1
    outbox.save("train", key(2), answer(2))


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"outbox: cannot be made: Not a directory$"):
        Outbox(tmp_path / "file" / "outbox")
