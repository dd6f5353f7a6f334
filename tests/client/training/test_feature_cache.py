"""Stored outputs of the frozen prefix: what is asked for, and nothing else, whatever happened to the files."""

import dataclasses
import errno
import functools
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import melfed.client.training.feature_cache
import melfed.common.model.inference
from melfed.client.training.feature_cache import FeatureCache
from melfed.common.data.augmentation import Augmentation, to_input
from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore
from melfed.common.errors import StorageError
from melfed.common.locks import lock
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.backbones.spec import HALF, Trainable
from melfed.common.model.classifier import Classifier, build_classifier
from melfed.common.model.frozen_prefix import Split, split
from melfed.common.seeds import seed_for
from tests.client.small import CPU
from tests.common.image_folder import NAMES, make_folder, save
from tests.common.model.test_classifier import lesion
from tests.common.model.test_frozen_prefix import NeckChoices
from tests.common.networks import with_random_head
from tests.conftest import REPOSITORY

SIZE = 32
ROW = 11
"""Length of a row of the tiny network's features."""


def small(part: Trainable = "head", seed: int = 1) -> Classifier:
    return with_random_head(build_classifier(NeckChoices(train=part), seed=seed, state=None)).eval()


def of_folder(root: Path, names: Sequence[str] = NAMES, size: int = SIZE) -> Images:
    store = ImageStore.build(root.parent / "pixels", root, names, size)
    return Images(tuple(dataclasses.replace(lesion(None, None, None), image=name) for name in names), store)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return of_folder(make_folder(tmp_path_factory.mktemp("data") / "images"))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows at once, so that a fill has several parts."""
    monkeypatch.setattr(melfed.common.model.inference, "CPU_MICRO_BATCH_PIXELS", 1)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each run of the prefix has computed from now on."""
    return count_rows(monkeypatch.setattr)


def count_rows(patch: Callable[[object, str, object], None]) -> list[int]:
    runs: list[int] = []

    def counting(model: Classifier) -> Split | None:
        parts = split(model)

        def prefix(batch: torch.Tensor) -> torch.Tensor:
            # Batches of one size: what fills them up is there twice.
            runs.append(len(torch.unique(batch.flatten(1), dim=0)))
            assert batch.is_contiguous(memory_format=torch.channels_last)
            return parts.prefix(batch)

        return parts and dataclasses.replace(parts, prefix=prefix)

    patch(melfed.client.training.feature_cache, "split", counting)
    return runs


def direct(model: Classifier, images: Images, views: int = 1) -> np.ndarray:
    """The prefix's outputs, one image at a time, in plain words."""
    spec = BACKBONES[model.backbone]
    parts = split(model)
    assert parts is not None
    rows = []
    for index, record in enumerate(images.records):
        for view in range(views):
            generator = None
            if view:
                generator = torch.Generator().manual_seed(seed_for(0, "view", images.store.digests[record.image], view))
            batch = to_input(images.pixels([index]), spec.mean, spec.std, generator)
            rows.append(parts.prefix(batch)[0].numpy())
    return np.stack(rows).reshape(len(images), views, *rows[0].shape)


def assert_right(found: np.ndarray | None, model: Classifier, images: Images, views: int = 1) -> None:
    assert found is not None
    expected = direct(model, images, views)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    # Rounding depends on how many images are run at once.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def features(folder: Path, model: Classifier, images: Images, views: int = 1, **more: object) -> np.ndarray | None:
    """What a new process would see."""
    return FeatureCache(folder, **more).features(model, images, images.pixels([0]).shape[1], CPU, views=views)


# --- what is returned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("part", ["head", "last_block"])
def test_rows_are_those_of_the_prefix_and_computed_once(
    tmp_path: Path, images: Images, computed: list[int], part: Trainable, views: int
) -> None:
    model, progress = small(part), []
    cache = FeatureCache(tmp_path)
    report = lambda done, total: progress.append((done, total))  # noqa: E731
    found = cache.features(model, images, SIZE, CPU, views=views, on_progress=report)
    assert_right(found, model, images, views)
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    rows = 10 * views
    assert sum(computed) == rows + 1, "one more to learn the shape"
    assert progress == [(min(done, rows), rows) for done in range(4, rows + 4, 4)]
    again = [cache.features(model, images, SIZE, CPU, views=views), features(tmp_path, model, images, views)]
    assert all(np.array_equal(found, other) for other in again)
    assert sum(computed) == rows + 1


def test_views_depend_on_image_and_number_alone(tmp_path: Path, images: Images) -> None:
    model = small()
    found = features(tmp_path / "a", model, images, 3)
    backwards = of_folder(Path(images.store._cache.folder).parents[2] / "images", NAMES[::-1])
    other = features(tmp_path / "b", model, backwards, 4)
    assert found is not None
    assert other is not None
    np.testing.assert_allclose(other[::-1, :3], found, rtol=1e-4, atol=1e-6)
    assert len(np.unique(other.reshape(40, -1), axis=0)) == 40, "no two views are the same"


def test_the_tail_computes_from_stored_rows_what_the_network_does(tmp_path: Path, images: Images) -> None:
    model = small("last_block")
    found, parts = features(tmp_path, model, images), split(model)
    assert found is not None
    assert parts is not None
    batch = to_input(images.pixels(range(10)), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None)
    with torch.no_grad():
        torch.testing.assert_close(parts.tail(torch.from_numpy(found[:, 0].copy())), model(batch), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", ["affine", "full"])
def test_without_a_frozen_prefix_nothing_is_stored(tmp_path: Path, images: Images, part: Trainable) -> None:
    assert features(tmp_path, small(part), images) is None
    assert not any(tmp_path.iterdir())


def test_no_images_no_features(tmp_path: Path, images: Images) -> None:
    assert FeatureCache(tmp_path).features(small(), Images((), images.store), SIZE, CPU) is None


def test_another_size_than_said_is_refused(tmp_path: Path, images: Images) -> None:
    with pytest.raises(ValueError, match="32 px, not 64 px"):
        FeatureCache(tmp_path).features(small(), images, 64, CPU)


# --- the key ---------------------------------------------------------------------------------------------------------


def _other_weights(model: Classifier, _: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        model.trunk.features[0].bias[3] += 1e-6


def _other_weights_unseen_by_autograd(model: Classifier, _: pytest.MonkeyPatch) -> None:
    model.trunk.features[0].bias.data[3] += 1e-6


def _other_colours(_: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(BACKBONES["simple_cnn"], std=HALF)
    monkeypatch.setattr(melfed.client.training.feature_cache, "backbone_spec", lambda _name: other)


def _other_augmentation(_: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        melfed.client.training.feature_cache, "Augmentation", functools.partial(Augmentation, colour=0.05)
    )


def _other_decoder(_: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melfed.client.training.feature_cache, "DECODER_VERSION", 0)


def _other_cut(model: Classifier, _: pytest.MonkeyPatch) -> None:
    for parameter in model.trunk.features[12].parameters():
        parameter.requires_grad_(True)


@pytest.mark.parametrize(
    "change",
    [
        _other_weights,
        _other_weights_unseen_by_autograd,
        _other_colours,
        _other_augmentation,
        _other_decoder,
        _other_cut,
    ],
)
def test_what_rows_depend_on_is_in_the_key(
    tmp_path: Path,
    images: Images,
    computed: list[int],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Classifier, pytest.MonkeyPatch], None],
) -> None:
    model, cache = small(), FeatureCache(tmp_path)
    cache.features(model, images, SIZE, CPU, views=2)
    change(model, monkeypatch)
    computed.clear()
    cache.features(model, images, SIZE, CPU, views=2)
    assert sum(computed) == 21


def test_what_learns_is_not_in_the_key(tmp_path: Path, images: Images, computed: list[int]) -> None:
    model = small("last_block")
    features(tmp_path, model, images)
    with torch.no_grad():
        model.trunk.features[12].bias.fill_(1)
        model.head.bias.fill_(1)
    computed.clear()
    assert_right(features(tmp_path, model, images), model, images)
    assert not computed


def test_a_changed_image_and_new_views_are_all_that_is_computed(tmp_path: Path, computed: list[int]) -> None:
    root, model = make_folder(tmp_path / "images"), small()
    features(tmp_path, model, of_folder(root))
    save(root / NAMES[3], 99)
    computed.clear()
    changed = of_folder(root)
    assert_right(features(tmp_path, model, changed), model, changed)
    assert computed == [1, 1], "the shape, the new image"
    computed.clear()
    assert_right(features(tmp_path, model, changed, 3), model, changed, 3)
    assert sum(computed) == 21
    computed.clear()
    some = of_folder(root, [NAMES[8], NAMES[3], NAMES[8]])
    assert_right(features(tmp_path, model, some, 2), model, some, 2)
    assert computed == [1]


# --- damage ----------------------------------------------------------------------------------------------------------


def files(folder: Path) -> tuple[Path, Path]:
    (data,), (index,) = folder.rglob("*.f32"), folder.rglob("*.index")
    return data, index


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


def swapped(content: bytes) -> bytes:
    row = 4 * ROW
    return content[row : 2 * row] + content[:row] + content[2 * row :]


DAMAGE: dict[str, tuple[Callable[[Path, Path], None], int]] = {
    "a number": (lambda data, index: flip(data, 4 * ROW * 3 + 5), 1),
    "a checksum": (lambda data, index: flip(index, 64 + 44 * 5 + 40), 1),
    "an image": (lambda data, index: flip(index, 64 + 44 * 5), 0),
    "the shape": (lambda data, index: flip(index, 0), 11),
    "two rows swapped": (lambda data, index: data.write_bytes(swapped(data.read_bytes())), 2),
    "data cut": (lambda data, index: os.truncate(data, 100), 11),
    "index cut": (lambda data, index: os.truncate(index, 64 + 44 * 5 + 3), 11),
    "index empty": (lambda data, index: os.truncate(index, 0), 11),
    "no data": (lambda data, index: data.unlink(), 11),
    "no index": (lambda data, index: index.unlink(), 11),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_mended(tmp_path: Path, images: Images, computed: list[int], damage: str) -> None:
    model = small()
    features(tmp_path, model, images)
    spoil, rows = DAMAGE[damage]
    spoil(*files(tmp_path))
    computed.clear()
    assert_right(features(tmp_path, model, images), model, images)
    assert sum(computed) == rows
    computed.clear()
    assert_right(features(tmp_path, model, images), model, images)
    assert not computed


def test_damage_between_two_rounds_is_found(tmp_path: Path, images: Images) -> None:
    model, cache = small(), FeatureCache(tmp_path)
    cache.features(model, images, SIZE, CPU)
    flip(files(tmp_path)[0], 9)
    assert_right(cache.features(model, images, SIZE, CPU), model, images)


def test_a_shape_of_the_same_size_is_not_believed(tmp_path: Path, images: Images) -> None:
    model = small("last_block")
    shape = direct(model, images).shape[2:]
    features(tmp_path, model, images)
    index = files(tmp_path)[1]
    content = index.read_bytes()
    index.write_bytes(str(np.prod(shape)).encode().ljust(64) + content[64:])
    found = features(tmp_path, model, images)
    assert found is None or found.shape[2:] == shape


def test_damaged_rows_are_not_copied_to_another_list(tmp_path: Path, images: Images, computed: list[int]) -> None:
    model = small()
    features(tmp_path, model, images)
    flip(files(tmp_path)[0], 4 * ROW * 3 + 5)
    computed.clear()
    assert_right(features(tmp_path, model, images, 2), model, images, 2)
    assert sum(computed) == 1 + 10 + 1


def test_rows_of_another_image_are_not_copied(tmp_path: Path, images: Images) -> None:
    model = small()
    features(tmp_path, model, images)
    index = files(tmp_path)[1]
    content = bytearray(index.read_bytes())
    third, fourth = slice(64 + 44 * 3, 64 + 44 * 3 + 32), slice(64 + 44 * 4, 64 + 44 * 4 + 32)
    content[third], content[fourth] = content[fourth], content[third]
    index.write_bytes(content)
    assert_right(features(tmp_path, model, images, 2), model, images, 2)


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_damage_and_any_lists(images: Images, data: st.DataObject) -> None:
    model = small()
    root = Path(images.store._cache.folder).parents[2] / "images"
    with tempfile.TemporaryDirectory() as name:
        for _ in range(3):
            names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))
            views = data.draw(st.integers(1, 2))
            some = of_folder(root, names)
            assert_right(features(Path(name), model, some, views, limit=2_000), model, some, views)
            path = data.draw(st.sampled_from(sorted(Path(name).rglob("*.*"))))
            flip(path, data.draw(st.integers(0, path.stat().st_size - 1)))


# --- processes that end, and others at work --------------------------------------------------------------------------


class Killed(BaseException):
    """Ends everything at one point; nothing of the code may catch it."""


@pytest.mark.parametrize("half", [False, True])
def test_a_fill_that_ends_at_any_write_is_resumed(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    model, write, cut = small(), os.pwrite, os.ftruncate
    left = [0]

    def step(act: Callable[..., int | None], *arguments: object) -> int | None:
        if not left[0]:
            if half and act is write:
                descriptor, content, place = arguments
                write(descriptor, content[: len(content) // 2], place)
            raise Killed
        left[0] -= 1
        return act(*arguments)

    monkeypatch.setattr(os, "pwrite", functools.partial(step, write))
    monkeypatch.setattr(os, "ftruncate", functools.partial(step, cut))
    for point in range(22):
        left[0] = point
        with pytest.raises(Killed):
            features(tmp_path / str(point), model, images)
        left[0] = -1
        assert_right(features(tmp_path / str(point), model, images), model, images)
    left[0] = 22
    features(tmp_path / "all", model, images)
    assert not left[0], "these were all the points"


CHILD = """
import json
import sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import torch
import melfed.client.training.feature_cache
import melfed.common.model.inference
from melfed.common.model.classifier import build_classifier
from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore

def tell(text):
    print(text, flush=True)

def run(folder, images, views=1, **more):
    cache = melfed.client.training.feature_cache.FeatureCache(folder, **more)
    return cache.features(model, images, 32, torch.device("cpu"), views=views, on_progress=lambda done, _: tell(done))

folder, root, names = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
store = ImageStore.open(folder / "pixels", root, names, 32)
choices = SimpleNamespace(
    backbone="simple_cnn", pretrained=False, train="head", metadata=False, dropout_rate=0, neck=None
)
model = build_classifier(choices, seed=1, state=None)
images, some = (Images(tuple(SimpleNamespace(image=n) for n in part), store) for part in (names, names[:5]))
melfed.common.model.inference.CPU_MICRO_BATCH_PIXELS = 1
tell("ready")
sys.stdin.readline()
run(folder, images, 20)
tell("turns")
limit = 64 + 10 * (44 + 4 * 11)
expected = [run(folder / sys.argv[4], part) for part in (images, some)]
for _ in range(12):  # the two lists have no room side by side
    for part, right in zip((images, some), expected):
        found = run(folder / "narrow", part, limit=limit)
        assert found is None or np.allclose(found, right, rtol=1e-4, atol=1e-6)
"""


def child(folder: Path, root: Path, name: str = "one") -> "subprocess.Popen[str]":
    """Another process, which tells the rows that it computes, one part a line, once it is told to begin."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(root), json.dumps(NAMES), name],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def begin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def test_kill_9_in_mid_fill(tmp_path: Path, computed: list[int]) -> None:
    root = make_folder(tmp_path / "images")
    images, model = of_folder(root), small()
    process = child(tmp_path, root)
    begin(process)
    assert process.stdout is not None
    stored = [int(process.stdout.readline()) for _ in range(10)][-1]
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert_right(features(tmp_path, model, images, 20), model, images, 20)
    assert stored == 40
    assert 0 < sum(computed) <= 200 - stored


def test_two_processes_use_one_cache(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "images")
    images = of_folder(root)
    processes = [child(tmp_path, root, name) for name in ("one", "two")]
    for process in processes:
        begin(process)
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    parts = [part for output in outputs for part in output.split("turns")[0].split()]
    assert sorted(map(int, parts)) == list(range(4, 204, 4)), "every row was computed by one of the two"
    assert_right(features(tmp_path, small(), images, 20), small(), images, 20)
    assert used(tmp_path / "narrow") <= size_of(10)


# --- the folder ------------------------------------------------------------------------------------------------------


def size_of(rows: int) -> int:
    return 64 + rows * (44 + 4 * ROW)


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path, images: Images, computed: list[int]) -> None:
    one, two, three = (small(seed=seed) for seed in (1, 2, 3))
    limit = 2 * size_of(10) + size_of(1) - 1

    def run(model: Classifier) -> bool:
        computed.clear()
        assert_right(features(tmp_path, model, images, limit=limit), model, images)
        assert used(tmp_path) <= limit
        return bool(computed)

    assert [run(one), run(two), run(one), run(three), run(one), run(two), run(three)] == [
        *(True, True, False, True, False, True, True)
    ]


def test_what_is_in_use_is_not_deleted(tmp_path: Path, images: Images, computed: list[int]) -> None:
    one, two = small(seed=1), small(seed=2)
    features(tmp_path, one, images)
    with lock(files(tmp_path)[1]):
        assert features(tmp_path, two, images, limit=size_of(10)) is None
    computed.clear()
    assert_right(features(tmp_path, one, images), one, images)
    assert not computed


def test_what_was_mapped_before_it_made_room_can_still_be_read(tmp_path: Path, images: Images) -> None:
    one, two = small(seed=1), small(seed=2)
    found = features(tmp_path, one, images, limit=size_of(10))
    assert_right(features(tmp_path, two, images, limit=size_of(10)), two, images)
    assert_right(found, one, images)


def test_what_does_not_fit_is_left_to_the_caller_and_said_once(
    tmp_path: Path, images: Images, computed: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    fits, model = small(seed=2), small()
    cache = FeatureCache(tmp_path, size_of(10))
    cache.features(fits, images, SIZE, CPU)
    computed.clear()
    with caplog.at_level(logging.WARNING):
        assert [cache.features(model, images, SIZE, CPU, views=2) for _ in range(3)] == [None] * 3
    assert computed == [1]
    assert len(caplog.records) == 1
    assert f"{size_of(20)} bytes do not fit into {size_of(10)}" in caplog.text
    computed.clear()
    cache.features(fits, images, SIZE, CPU)
    assert not computed, "nothing was deleted in vain"


def test_only_the_owner_may_look(tmp_path: Path, images: Images) -> None:
    previous = os.umask(0)
    try:
        features(tmp_path / "cache", small(), images)
    finally:
        os.umask(previous)
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_full_disk_is_told_and_leaves_what_was_stored(
    tmp_path: Path, images: Images, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, write = [0], os.pwrite

    def full(*arguments: int) -> int:
        calls[0] += 1
        if calls[0] > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match=r"cache: No space left on device; free some space, or set MELFED_"):
            features(tmp_path / "cache", small(), images)
    computed.clear()
    assert_right(features(tmp_path / "cache", small(), images), small(), images)
    assert sum(computed) == 6


def test_a_system_that_writes_little_at_once(
    tmp_path: Path, images: Images, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, place: write(descriptor, content[:7], place))
    for _ in range(2):
        assert_right(features(tmp_path, small(), images), small(), images)
    assert sum(computed) == 11


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, images: Images) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="feature cache"):
        features(tmp_path / "file", small(), images)
