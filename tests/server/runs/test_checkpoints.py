"""Checkpoints: what is written comes back, and no crash, full disk or mix-up costs more than the newest one."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from melfed.common.errors import RunError, StorageError
from melfed.common.tensors import load_tensors, save_tensors
from melfed.server.runs.checkpoints import KEPT, Checkpoint, last_checkpoint, save_checkpoint

REPOSITORY = Path(__file__).resolve().parents[3]
DIGEST, OTHER = "a" * 64, "b" * 64
TENSORS = st.dictionaries(
    st.text("abc/._0", min_size=1, max_size=8),
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    max_size=4,
)


def checkpoint(number: int, digest: str = DIGEST) -> Checkpoint:
    return Checkpoint(
        number,
        digest,
        {"w": np.full((3, 2), number, np.float32)},
        {"momentum/w": np.ones(2, np.float32)},
        {"w": np.full((3, 2), number / 2, np.float32)},
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path) -> Path:
    return folder / names(folder)[-1]


@settings(deadline=None, max_examples=40)
@given(model=TENSORS, optimizer=TENSORS, average=TENSORS, number=st.integers(0, 100_000))
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory, model, optimizer, average, number: int
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    save_checkpoint(folder, Checkpoint(number, DIGEST, model, optimizer, average))
    back = last_checkpoint(folder, DIGEST)
    assert back is not None
    assert (back.round, back.digest) == (number, DIGEST)
    for got, expected in ((back.model, model), (back.optimizer, optimizer), (back.average, average)):
        assert got.keys() == expected.keys()
        for name in expected:
            assert got[name].dtype == np.float32
            assert got[name].shape == expected[name].shape
            assert got[name].tobytes() == expected[name].tobytes()


def test_no_checkpoint_is_none_and_no_folder_an_error(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path, DIGEST) is None
    (tmp_path / "notes.txt").write_text("no checkpoint")
    assert last_checkpoint(tmp_path, DIGEST) is None
    with pytest.raises(RunError, match="no such folder"):
        last_checkpoint(tmp_path / "gone", DIGEST)


def test_only_the_newest_two_stay(tmp_path: Path) -> None:
    for number in (0, 1, 9, 10, 100, 99_999, 100_000):
        save_checkpoint(tmp_path, checkpoint(number))
        assert len(names(tmp_path)) <= KEPT
        back = last_checkpoint(tmp_path, DIGEST)
        assert back is not None
        assert back.round == number
    assert names(tmp_path) == ["round-099999.safetensors", "round-100000.safetensors"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "round-000001.safetensors.bak").write_text("mine")
    for number in range(4):
        save_checkpoint(tmp_path, checkpoint(number))
    assert "round-000001.safetensors.bak" in names(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 60, -1])
def test_a_truncated_newest_falls_back_to_the_one_before(tmp_path: Path, kept: int) -> None:
    for number in (1, 2):
        save_checkpoint(tmp_path, checkpoint(number))
    path = newest(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    back = last_checkpoint(tmp_path, DIGEST)
    assert back is not None
    assert back.round == 1
    save_checkpoint(tmp_path, checkpoint(2))
    assert last_checkpoint(tmp_path, DIGEST).round == 2


def test_a_flipped_byte_in_the_newest_falls_back_and_is_said(tmp_path: Path) -> None:
    for number in (1, 2):
        save_checkpoint(tmp_path, checkpoint(number))
    path = newest(tmp_path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40  # a number of the model; the file is as whole as before
    path.write_bytes(content)
    told: list[str] = []
    back = last_checkpoint(tmp_path, DIGEST, told=told.append)
    assert back is not None
    assert back.round == 1
    assert len(told) == 1
    assert told[0].startswith(f"{path}: damaged: it holds other than what was written")
    assert told[0].endswith("; going on from the one before")


@pytest.mark.parametrize("number", [None, "2", 2.5, True, 7, -2])
def test_a_header_of_no_round_or_another_one_falls_back_and_is_said(tmp_path: Path, number: object) -> None:
    for each in (1, 2):
        save_checkpoint(tmp_path, checkpoint(each))
    path = newest(tmp_path)
    tensors, metadata = load_tensors(path)
    del metadata["round"]
    save_tensors(path, tensors, metadata if number is None else {**metadata, "round": number})
    told: list[str] = []
    back = last_checkpoint(tmp_path, DIGEST, told=told.append)
    assert back is not None
    assert back.round == 1
    assert told == [
        f"{path}: damaged: its header is of round {number}; bring it back from a backup; going on from the one before"
    ]


def test_a_parents_checkpoint_counts(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1, OTHER))
    back = last_checkpoint(tmp_path, DIGEST, parents=[OTHER])
    assert back is not None
    assert (back.round, back.digest) == (1, DIGEST)


def test_none_whole_is_an_error(tmp_path: Path) -> None:
    for number in (1, 2):
        save_checkpoint(tmp_path, checkpoint(number))
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(RunError, match="no whole checkpoint") as caught:
        last_checkpoint(tmp_path, DIGEST)
    assert "\n" not in str(caught.value)


def test_another_studys_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2, OTHER))
    with pytest.raises(RunError, match="of study bbbbbbbbbbbb, not aaaaaaaaaaaa"):
        last_checkpoint(tmp_path, DIGEST)


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_full_disk_leaves_the_previous_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    for number in (1, 2):
        save_checkpoint(tmp_path, checkpoint(number))
    before = names(tmp_path)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(StorageError, match="No space left on device; free space") as caught:
            save_checkpoint(tmp_path, checkpoint(3))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    assert last_checkpoint(tmp_path, DIGEST).round == 2


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from melfed.common.errors import StorageError
from melfed.server.runs.checkpoints import Checkpoint, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_checkpoint(Path(sys.argv[1]), Checkpoint(3, "a" * 64, {"w": np.zeros(100_000, np.float32)}, {}))
except StorageError as error:
    print(error)
"""


def test_a_write_that_the_system_refuses_half_way(tmp_path: Path) -> None:
    for number in (1, 2):
        save_checkpoint(tmp_path, checkpoint(number))
    before = names(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert "round-000003.safetensors: cannot be written: File too large" in lines[0]
    assert names(tmp_path) == before
    assert last_checkpoint(tmp_path, DIGEST).round == 2
