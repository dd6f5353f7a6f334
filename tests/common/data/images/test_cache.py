"""What a full disk, a killed process, a second builder and damage do to the cache."""

import fcntl
import os
import resource
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import melfed.common.data.images.store
from melfed.common.data.images.cache import ImageCache
from melfed.common.data.images.decoder import decode
from melfed.common.data.images.store import ImageStore
from melfed.common.errors import StorageError
from tests.common.image_folder import NAMES, RECORD, SIZE, expected, make_folder, pixels_file, record_decodings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return record_decodings(monkeypatch)


def test_only_the_owner_may_look(cache: Path, root: Path) -> None:
    previous = os.umask(0)
    try:
        ImageStore.build(cache, root, NAMES, SIZE)
    finally:
        os.umask(previous)
    for path in [cache, *cache.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_only_what_is_asked_for_is_looked_up(cache: Path, root: Path) -> None:
    """Of an index of a whole folder, which many small clinics share, each reads its own rows."""
    store = ImageStore.build(cache, root, NAMES, SIZE)
    index = ImageCache(cache, SIZE)
    paths = [f"{root.resolve()}/{name}" for name in NAMES if name in store]
    every = index.outcomes(paths)
    assert set(every) == set(paths)
    assert len(paths) > 3
    assert index.outcomes(paths[:2]) == {path: every[path] for path in paths[:2]}
    assert index.outcomes([]) == {} == index.outcomes([f"{root}/no such file"])


@pytest.mark.parametrize("kept", [0, 3 * RECORD, 9 * RECORD + 1])
def test_lost_pixels_are_decoded_again(cache: Path, root: Path, decoded: list[str], kept: int) -> None:
    ImageStore.build(cache, root, NAMES, SIZE)
    os.truncate(pixels_file(cache), kept)
    decoded.clear()
    store = ImageStore.build(cache, root, NAMES, SIZE)
    assert len(decoded) == 10 - kept // RECORD
    assert np.array_equal(store.batch(NAMES), expected(root, NAMES))


def test_damaged_index_is_named(cache: Path, root: Path) -> None:
    ImageStore.build(cache, root, NAMES, SIZE)
    (index,) = cache.rglob("index.sqlite")
    index.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"file is not a database; .* delete the folder"):
        ImageStore.build(cache, root, NAMES, SIZE)


def test_cache_that_is_no_folder(cache: Path, root: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(StorageError, match="set MELFED_CACHE elsewhere"):
        ImageStore.build(cache, root, NAMES, SIZE)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melfed.common.data.images.store, "_CHUNK", 4)


LARGE = 200  # five records are larger than the index


@pytest.mark.usefixtures("small_chunks")
def test_full_disk(cache: Path, root: Path, decoded: list[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (11 * LARGE * LARGE * 3 // 2, hard))  # five and a half records
    try:
        with pytest.raises(StorageError, match=r"image cache .*: File too large; free some space"):
            ImageStore.build(cache, root, NAMES, LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(ImageStore.open(cache, root, NAMES[:4], LARGE).batch(NAMES[:4])) == 4
    decoded.clear()
    store = ImageStore.build(cache, root, NAMES, LARGE)
    assert sorted(decoded) == NAMES[4:]
    assert np.array_equal(store.batch(NAMES), np.stack([decode(root / name, LARGE) for name in NAMES]))


BUILDER = """
import os, sys, time
from pathlib import Path
import melfed.common.data.images.cache, melfed.common.data.images.store
from melfed.common.data.images.store import ImageStore
from melfed.common.data.images.decoder import decode_bytes

cache, root, trouble = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
names = [f"images/{number}.png" for number in range(10)]
melfed.common.data.images.store._CHUNK = 4
decoded, flushed, fsync = [], [], os.fsync

def decode(data, size, name):
    decoded.append(name)
    if trouble == "while decoding" and len(decoded) == 6:
        os._exit(9)
    if trouble == "slow":
        time.sleep(0.02)
    return decode_bytes(data, size, name)

def flush(descriptor):
    flushed.append(descriptor)
    if trouble == "pixels half written" and len(flushed) == 2:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 700)
        os._exit(9)
    fsync(descriptor)
    if trouble == "pixels written" and len(flushed) == 2:
        os._exit(9)

melfed.common.data.images.store.decode_bytes, os.fsync = decode, flush
store = ImageStore.build(cache, root, names, 20, workers=1)
print(len(decoded), len(store.batch(names)))
"""


def start(cache: Path, root: Path, trouble: str) -> "subprocess.Popen[str]":
    repository = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(cache), str(root), trouble],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("trouble", ["while decoding", "pixels half written", "pixels written"])
def test_killed_build_leaves_a_usable_cache(cache: Path, root: Path, decoded: list[str], trouble: str) -> None:
    with start(cache, root, trouble) as process:
        assert process.wait(60) == 9
    first = ImageStore.open(cache, root, NAMES[:4], SIZE)
    assert np.array_equal(first.batch(NAMES[:4]), expected(root, NAMES[:4]))
    store = ImageStore.build(cache, root, NAMES, SIZE)
    assert sorted(decoded) == NAMES[4:], "what was committed is not decoded again"
    assert np.array_equal(store.batch(NAMES), expected(root, NAMES))


def test_two_builders_share_the_work(cache: Path, root: Path) -> None:
    with start(cache, root, "slow") as one, start(cache, root, "slow") as other:
        answers = [process.communicate(timeout=60)[0].split() for process in (one, other)]
    assert sum(int(decodings) for decodings, _ in answers) == 10
    assert [images for _, images in answers] == ["10", "10"]


def test_waiting_for_another_builder_has_an_end(
    cache: Path, root: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ImageStore.build(cache, root, NAMES[:2], SIZE)
    (lock,) = cache.rglob("lock")
    monkeypatch.setattr("melfed.common.data.images.cache.LOCK_SECONDS", 0.1)
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"process \d+ .+ has been building it"):
            ImageStore.build(cache, root, NAMES, SIZE)
        assert len(ImageStore.build(cache, root, NAMES[:2], SIZE).batch(NAMES[:2])) == 2, "readers need no lock"
        threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        monkeypatch.setattr("melfed.common.data.images.cache.LOCK_SECONDS", 30.0)
        assert len(ImageStore.build(cache, root, NAMES, SIZE).batch(NAMES)) == 10
