"""The last reply comes back bit for bit to the question it answered, to no other, and never in part."""

import errno
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from melfed.client.worker.reply_store import ReplyStore, reply_key
from melfed.common.errors import StorageError

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(3, np.float32)}
KEY = reply_key("d" * 64, "run", 1, "training", MODEL)
OTHER_KEY = reply_key("d" * 64, "run", 2, "training", MODEL)
TENSORS = {"head.weight": np.array([[0.1, -0.0, 1e-42]], np.float32), "positives": np.array([3, -1, 2**62])}
METRICS: dict[str, float | int | str] = {"loss": 0.1, "images": 120, "note": "é"}


def store(folder: Path) -> ReplyStore:
    return ReplyStore(folder / "reply.safetensors")


def assert_same(found: tuple[dict, dict] | None, tensors: dict, metrics: dict) -> None:
    assert found is not None
    assert found[1] == metrics
    assert {name: type(value) for name, value in found[1].items()} == {n: type(v) for n, v in metrics.items()}
    assert found[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[0][name].dtype == tensor.dtype
        assert found[0][name].shape == tensor.shape
        assert found[0][name].tobytes() == tensor.tobytes()


def test_a_reply_is_found_by_its_question_alone(tmp_path: Path) -> None:
    replies = store(tmp_path)
    assert replies.find(KEY) is None
    replies.save(KEY, TENSORS, METRICS)
    assert_same(replies.find(KEY), TENSORS, METRICS)
    assert_same(store(tmp_path).find(KEY), TENSORS, METRICS)
    assert replies.find(OTHER_KEY) is None
    assert replies.find("") is None


def test_the_last_reply_replaces_the_one_before(tmp_path: Path) -> None:
    replies = store(tmp_path)
    replies.save(KEY, TENSORS, METRICS)
    replies.save(OTHER_KEY, MODEL, {})
    assert replies.find(KEY) is None
    assert_same(replies.find(OTHER_KEY), MODEL, {})
    assert [path.name for path in tmp_path.iterdir()] == ["reply.safetensors"]


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    replies = store(tmp_path)
    replies.path.write_bytes(b"")
    replies.path.chmod(0o666)
    replies.save(KEY, TENSORS, METRICS)
    assert replies.path.stat().st_mode & 0o777 == 0o600


arrays = hnp.arrays(
    st.sampled_from([np.float32, np.int64]), hnp.array_shapes(min_dims=0, min_side=0, max_side=3), fill=st.nothing()
)
replies_of_all_kinds = st.dictionaries(st.text("abc./_é", min_size=1, max_size=6), arrays, max_size=3)
metrics_of_all_kinds = st.dictionaries(
    st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), max_size=3
)


@settings(deadline=None, max_examples=50)
@given(replies_of_all_kinds, metrics_of_all_kinds)
def test_a_reply_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray], metrics: dict[str, float | int | str]
) -> None:
    replies = store(tmp_path_factory.mktemp("replies"))
    replies.save(KEY, tensors, metrics)
    assert_same(replies.find(KEY), tensors, metrics)


def test_what_is_not_contiguous_comes_back_as_it_looked(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = {"turned": base.T, "part": base[:, ::2, 1:]}
    store(tmp_path).save(KEY, tensors, {})
    assert_same(store(tmp_path).find(KEY), tensors, {})


def test_a_metric_that_is_no_number_is_refused_and_the_last_reply_stays(tmp_path: Path) -> None:
    replies = store(tmp_path)
    replies.save(KEY, TENSORS, METRICS)
    with pytest.raises(ValueError, match="JSON"):
        replies.save(OTHER_KEY, TENSORS, {"loss": float("nan")})
    assert_same(replies.find(KEY), TENSORS, METRICS)


def test_a_damaged_file_is_no_reply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every byte of the file, changed in two ways, and every shorter file."""
    replies = store(tmp_path)
    replies.save(KEY, TENSORS, METRICS)
    whole = replies.path.read_bytes()
    changed = [whole[:n] + bytes([whole[n] ^ mask]) + whole[n + 1 :] for n in range(len(whole)) for mask in (1, 0x20)]
    harmless = 0
    for content in [*changed, *(whole[:n] for n in range(0, len(whole), 7)), whole + b"\0"]:
        replies.path.write_bytes(content)
        found = replies.find(KEY)
        if found is not None:
            # JSON writes é as \u00e9 or as \u00E9.
            assert_same(found, TENSORS, METRICS)
            harmless += 1
    assert harmless <= 1
    assert len(caplog.records) > len(whole)


def test_a_damaged_file_is_told_of_without_its_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    replies = store(tmp_path)
    replies.save(KEY, {"w": np.array([1.5], np.float32)}, {"secret": "4711"})
    whole = replies.path.read_bytes()
    replies.path.write_bytes(whole[:-4] + np.array([2.5], np.float32).tobytes())
    assert replies.find(KEY) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert f"will cost anew: {replies.path}: damaged: it holds other than what was written" in message
    assert "4711" not in message
    replies.path.write_bytes(whole[:40])
    assert replies.find(KEY) is None
    assert "4711" not in caplog.text


def test_what_is_no_file_of_ours_is_no_reply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import safetensors.numpy

    replies = store(tmp_path)
    for content in (
        b"",
        b"text",
        safetensors.numpy.save(TENSORS),
        safetensors.numpy.save(TENSORS, {"key": f'"{KEY}"'}),
    ):
        replies.path.write_bytes(content)
        assert replies.find(KEY) is None
    replies.path.unlink()
    replies.path.mkdir()
    assert replies.find(KEY) is None
    assert len(caplog.records) == 5


def test_nothing_is_said_where_there_is_no_reply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    replies = store(tmp_path)
    assert replies.find(KEY) is None
    replies.save(KEY, TENSORS, METRICS)
    assert replies.find(OTHER_KEY) is None
    assert not caplog.records


def test_a_writer_that_is_killed_leaves_the_last_reply_whole(tmp_path: Path) -> None:
    """The process dies when all bytes are written and the name is not, and leaves its temporary file behind."""
    replies = store(tmp_path)
    replies.save(KEY, TENSORS, METRICS)
    code = """
import os, signal, sys
from pathlib import Path
import numpy as np
from melfed.client.worker.reply_store import ReplyStore
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
ReplyStore(Path(sys.argv[1])).save("other", {"w": np.ones(1000, np.float32)}, {})
"""
    done = subprocess.run([sys.executable, "-c", code, str(replies.path)], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [path for path in tmp_path.iterdir() if path != replies.path]
    assert [path.stat().st_mode & 0o777 for path in left] == [0o600]
    assert_same(replies.find(KEY), TENSORS, METRICS)
    assert replies.find("other") is None
    replies.save(OTHER_KEY, MODEL, {})
    assert_same(replies.find(OTHER_KEY), MODEL, {})


def test_a_full_disk_leaves_the_last_reply_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    replies = store(tmp_path)
    replies.save(KEY, TENSORS, METRICS)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="free space"):
        replies.save(OTHER_KEY, MODEL, {})
    assert_same(replies.find(KEY), TENSORS, METRICS)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="see that its folder exists"):
        store(tmp_path / "missing").save(KEY, TENSORS, METRICS)


def test_the_key_is_the_same_whatever_the_order_and_the_layout() -> None:
    again = {"a": MODEL["a"].copy(), "b": np.asfortranarray(MODEL["b"])}
    assert reply_key("d" * 64, "run", 1, "training", again) == KEY
    assert len(KEY) == 64
    assert int(KEY, 16) > 0


def changed_model(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {**MODEL, **changes}


@pytest.mark.parametrize(
    "question",
    [
        ("e" * 64, "run", 1, "training", MODEL),
        ("d" * 64, "run2", 1, "training", MODEL),
        ("d" * 64, "run", 11, "training", MODEL),
        ("d" * 64, "run", 1, "evaluation", MODEL),
        ("d" * 64, "run", 1, "training", {}),
        ("d" * 64, "run", 1, "training", {"a": MODEL["a"]}),
        ("d" * 64, "run", 1, "training", {"a": MODEL["a"], "c": MODEL["b"]}),
        ("d" * 64, "run", 1, "training", {"b": MODEL["a"], "a": MODEL["b"]}),
        ("d" * 64, "run", 1, "training", changed_model(c=np.zeros(0, np.float32))),
        ("d" * 64, "run", 1, "training", changed_model(b=MODEL["b"].reshape(3, 2))),
        ("d" * 64, "run", 1, "training", changed_model(b=MODEL["b"].T)),
        ("d" * 64, "run", 1, "training", changed_model(a=-MODEL["a"])),
        ("d" * 64, "run", 1, "training", changed_model(a=MODEL["a"].astype(np.int32))),
        ("d" * 64, "run", 1, "training", changed_model(a=np.nextafter(MODEL["a"], np.float32(1)))),
    ],
)
def test_another_question_has_another_key(question: tuple[str, str, int, str, dict[str, np.ndarray]]) -> None:
    assert reply_key(*question) != KEY


def test_no_text_moves_between_the_parts_of_a_question() -> None:
    keys = {
        reply_key("ab", "c", 1, "d", {}),
        reply_key("a", "bc", 1, "d", {}),
        reply_key("ab", "c1", 1, "d", {}),
        reply_key("ab", "c", 11, "d", {}),
        reply_key("ab", 'c", 1, "d', 1, "d", {}),
        reply_key("ab", "c", 1, "d", {"": np.zeros(0, np.float32)}),
        reply_key("ab", "c", 1, "d", {"x": np.zeros(2, np.float32), "y": np.zeros(1, np.float32)}),
        reply_key("ab", "c", 1, "d", {"x": np.zeros(1, np.float32), "y": np.zeros(2, np.float32)}),
    }
    assert len(keys) == 8


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float32, 5, elements=st.floats(-2, 2, width=32)), st.integers(0, 159))
def test_every_bit_of_the_model_counts(tensor: np.ndarray, bit: int) -> None:
    bits = np.unpackbits(tensor.view(np.uint8))
    bits[bit] ^= 1
    other = np.packbits(bits).view(np.float32)
    assert reply_key("d", "r", 1, "training", {"w": tensor}) != reply_key("d", "r", 1, "training", {"w": other})
