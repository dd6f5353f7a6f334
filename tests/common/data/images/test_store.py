import hashlib
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import melfed.common.data.images.store
from melfed.common.data.images.decoder import ImageProblem, decode, read_file
from melfed.common.data.images.store import ImageStore, LeftOut, default_cache
from melfed.common.errors import DataError
from tests.common.image_folder import NAMES, RECORD, SIZE, expected, make_folder, pixels_file, record_decodings, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "data")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return record_decodings(monkeypatch)


def test_batch_is_a_writable_copy_in_the_order_asked_for(cache: Path, root: Path) -> None:
    store = ImageStore.build(cache, root, NAMES, SIZE)
    names = [NAMES[7], NAMES[0], NAMES[7], NAMES[3]]
    batch = store.batch(names)
    assert batch.dtype == np.uint8
    assert np.array_equal(batch, expected(root, names))
    batch[:] = 0
    assert np.array_equal(store.batch(names), expected(root, names))
    assert store.batch([]).shape == (0, SIZE, SIZE, 3)


def test_second_run_neither_reads_nor_decodes(
    cache: Path, root: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ImageStore.build(cache, root, NAMES, SIZE)
    assert sorted(decoded) == NAMES
    monkeypatch.setattr(melfed.common.data.images.store, "read_file", None)  # any read would raise
    again = ImageStore.build(cache, root, NAMES, SIZE)
    opened = ImageStore.open(cache, root, NAMES, SIZE)
    assert np.array_equal(again.batch(NAMES), expected(root, NAMES))
    assert np.array_equal(opened.batch(NAMES), expected(root, NAMES))
    assert sorted(decoded) == NAMES


def test_only_new_images_are_decoded(cache: Path, root: Path, decoded: list[str]) -> None:
    ImageStore.build(cache, root, NAMES[:6], SIZE)
    decoded.clear()
    store = ImageStore.build(cache, root, NAMES[4:], SIZE)
    assert sorted(decoded) == NAMES[6:]
    assert NAMES[9] in store
    assert NAMES[0] not in store
    with pytest.raises(DataError, match=r"images/0\.png is not among the decoded images"):
        store.batch([NAMES[0]])


def test_changed_file_is_decoded_again(cache: Path, root: Path, decoded: list[str]) -> None:
    before = ImageStore.build(cache, root, NAMES, SIZE)
    old = before.batch(NAMES)
    status = (root / NAMES[2]).stat()
    save(root / NAMES[2], 99)
    os.utime(root / NAMES[2], ns=(status.st_atime_ns, status.st_mtime_ns))  # the time alone does not tell
    decoded.clear()
    with pytest.raises(DataError, match=r"1 of 10 images are not in the cache .*images/2\.png"):
        ImageStore.open(cache, root, NAMES, SIZE)
    after = ImageStore.build(cache, root, NAMES, SIZE)
    assert decoded == [NAMES[2]]
    assert np.array_equal(after.batch(NAMES), expected(root, NAMES))
    assert np.array_equal(before.batch(NAMES), old), "a store that is open keeps its pictures"


def test_content_counts_and_not_the_place(cache: Path, root: Path, decoded: list[str]) -> None:
    ImageStore.build(cache, root, NAMES, SIZE)
    decoded.clear()
    moved = root.rename(root.with_name("moved"))
    (moved / NAMES[0]).touch()
    store = ImageStore.build(cache, moved, NAMES, SIZE)
    assert decoded == []
    assert np.array_equal(store.batch(NAMES), expected(moved, NAMES))


def test_each_size_has_its_own_pixels(cache: Path, root: Path) -> None:
    small, large = (ImageStore.build(cache, root, NAMES, size) for size in (8, SIZE))
    assert small.batch(NAMES).shape == (10, 8, 8, 3)
    assert np.array_equal(large.batch(NAMES), expected(root, NAMES))


def test_many_stores_of_one_cache_hold_one_file_open(cache: Path, root: Path) -> None:
    ImageStore.build(cache, root, NAMES, SIZE)
    one = ImageStore.open(cache, root, NAMES, SIZE)
    before = len(list(Path("/proc/self/fd").iterdir()))
    stores = [ImageStore.open(cache, root, [image], SIZE) for image in NAMES for _ in range(10)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    for store, image in zip(stores, (image for image in NAMES for _ in range(10)), strict=True):
        assert np.array_equal(store.batch([image]), one.batch([image]))


def test_copies_of_a_picture_share_their_pixels(cache: Path, root: Path) -> None:
    shutil.copy(root / NAMES[0], root / "copy.png")
    store = ImageStore.build(cache, root, [*NAMES, "copy.png"], SIZE)
    assert pixels_file(cache).stat().st_size == 10 * RECORD
    assert store.digests["copy.png"] == store.digests[NAMES[0]]
    assert np.array_equal(store.batch(["copy.png"]), store.batch([NAMES[0]]))


def test_problems_are_listed_and_the_build_goes_on(cache: Path, root: Path, decoded: list[str]) -> None:
    (root / "empty.jpg").touch()
    (root / "text.jpg").write_text("no image")
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    odd = ["empty.jpg", "text.jpg", "folder.jpg", "pipe.jpg", "missing.jpg", "nul\0.jpg", ""]
    names = [*odd[:3], *NAMES, *odd[3:]]
    store = ImageStore.build(cache, root, names, SIZE)
    assert [left.image for left in store.left_out] == odd
    reasons = {left.image: left.reason for left in store.left_out}
    assert reasons["empty.jpg"] == "empty file"
    assert reasons["text.jpg"].startswith("no readable image")
    assert reasons["folder.jpg"] == reasons["pipe.jpg"] == reasons[""] == "not a file"
    assert reasons["missing.jpg"] == "cannot be read: No such file or directory"
    assert not any(image in store for image in odd)
    assert store.digests["text.jpg"] == hashlib.sha256(b"no image").hexdigest()
    assert store.digests.keys() == {*NAMES, "empty.jpg", "text.jpg"}
    assert np.array_equal(store.batch(NAMES), expected(root, NAMES))
    decoded.clear()
    again = ImageStore.build(cache, root, names, SIZE)
    assert again.left_out == ImageStore.open(cache, root, names, SIZE).left_out == store.left_out
    assert decoded == [], "problems are remembered, too"


def test_only_problems(cache: Path, root: Path) -> None:
    (root / "empty.jpg").touch()
    store = ImageStore.build(cache, root, ["empty.jpg"], SIZE)
    assert store.left_out == (LeftOut("empty.jpg", "empty file"),)
    assert store.batch([]).shape == (0, SIZE, SIZE, 3)


def test_nothing_outside_the_data_folder_is_read(cache: Path, root: Path, tmp_path: Path) -> None:
    save(tmp_path / "data-2" / "secret.png", 1)
    (root / "out.png").symlink_to(tmp_path / "data-2" / "secret.png")
    (root / "out").symlink_to(tmp_path / "data-2")
    (root / "in.png").symlink_to("images/3.png")
    (root / "in").symlink_to("images")
    (root / "dangling.png").symlink_to("nowhere")
    (root / "loop.png").symlink_to("loop.png")
    absolute = str(tmp_path / "data-2" / "secret.png")
    out = ["out.png", "out/secret.png", "../data-2/secret.png", "images/../../data-2/secret.png"]
    broken = ["dangling.png", "loop.png", absolute]
    store = ImageStore.build(cache, root, [*out, *broken, "in.png", "in/4.png"], SIZE)
    assert [left.image for left in store.left_out] == [*out, *broken]
    assert [left.reason for left in store.left_out[:4]] == ["leads out of the data folder"] * 4
    assert all(left.reason.startswith("cannot be read: ") for left in store.left_out[4:])
    assert np.array_equal(store.batch(["in.png", "in/4.png"]), expected(root, [NAMES[3], NAMES[4]]))


def test_data_folder_reached_by_a_link(cache: Path, root: Path, tmp_path: Path, decoded: list[str]) -> None:
    (tmp_path / "link").symlink_to(root)
    ImageStore.build(cache, tmp_path / "link", NAMES, SIZE)
    decoded.clear()
    assert ImageStore.build(cache, root, NAMES, SIZE).left_out == ()
    assert decoded == []


def test_file_that_could_not_be_read_is_tried_again(cache: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> bytes:
        if path.name == "5.png":
            raise ImageProblem(str(path), "cannot be read: Input/output error")
        return read_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(melfed.common.data.images.store, "read_file", failing)
        store = ImageStore.build(cache, root, NAMES, SIZE)
    left_out = (LeftOut(NAMES[5], "cannot be read: Input/output error"),)
    assert store.left_out == ImageStore.open(cache, root, NAMES, SIZE).left_out == left_out
    assert NAMES[5] not in store.digests
    assert ImageStore.build(cache, root, NAMES, SIZE).left_out == ()


def test_missing_data_folder(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data folder"):
        ImageStore.build(cache, tmp_path / "nowhere", NAMES, SIZE)
    assert not cache.exists()


def test_progress_counts_all_images(cache: Path, root: Path) -> None:
    ImageStore.build(cache, root, NAMES[:4], SIZE)
    calls: list[tuple[int, int]] = []
    ImageStore.build(cache, root, NAMES, SIZE, workers=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 10) for done in range(5, 11)]


def test_store_travels_to_other_processes(cache: Path, root: Path) -> None:
    store = ImageStore.build(cache, root, NAMES, SIZE)
    data = pickle.dumps(store)
    assert len(data) < 2 * RECORD, "paths and digests, and no pixels"
    arrived = pickle.loads(data)
    assert np.array_equal(arrived.batch(NAMES), expected(root, NAMES))
    assert (arrived.left_out, arrived.digests) == (store.left_out, store.digests)


def test_file_changed_while_it_is_read(cache: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changing(path: Path) -> bytes:
        data = read_file(path)
        if path.name == "1.png":
            save(path, 77)
        return data

    with monkeypatch.context() as patch:
        patch.setattr(melfed.common.data.images.store, "read_file", changing)
        store = ImageStore.build(cache, root, NAMES, SIZE)
    assert store.left_out == (LeftOut(NAMES[1], "changed while it was read: run again"),)
    assert np.array_equal(ImageStore.build(cache, root, NAMES, SIZE).batch(NAMES), expected(root, NAMES))


@settings(deadline=None, max_examples=10)
@given(
    pictures=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    runs=st.lists(st.lists(st.integers(0, 11), max_size=8), min_size=1, max_size=4),
)
def test_any_order_of_builds_gives_the_pictures(pictures: list[int], runs: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "data"), Path(folder, "cache")
        root.mkdir()
        for number, picture in enumerate(pictures):
            if picture:
                save(root / f"{number}.png", picture)
            else:
                (root / f"{number}.png").touch()
        for run in runs:
            numbers = [number % len(pictures) for number in run]
            store = ImageStore.build(cache, root, [f"{number}.png" for number in numbers], SIZE, workers=2)
            good = [f"{number}.png" for number in numbers if pictures[number]]
            bad = {f"{number}.png" for number in numbers if not pictures[number]}
            assert {left.image for left in store.left_out} == bad
            assert np.array_equal(store.batch(good), expected(root, good) if good else store.batch([]))


def test_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELFED_CACHE", "/somewhere/melfed")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/ann/.caches")
    assert default_cache() == Path("/somewhere/melfed")
    monkeypatch.delenv("MELFED_CACHE")
    assert default_cache() == Path("/home/ann/.caches/melfed")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/ann")
    assert default_cache() == Path("/home/ann/.cache/melfed")


def test_real_images(shared: Path, cache: Path) -> None:
    root = shared / "data" / "ham10000"
    names = [f"images/{path.name}" for path in sorted((root / "images").iterdir())[:40]]
    store = ImageStore.build(cache, root, names, 64)
    assert store.left_out == ()
    assert np.array_equal(store.batch(names[:3]), np.stack([decode(root / name, 64) for name in names[:3]]))
