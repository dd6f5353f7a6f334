"""Clinics' releases in a run's folder: what was kept comes back, and nothing else does."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from melfed.common.errors import RunError, StorageError
from melfed.common.moments.noisy_moments import NoisyMoments, length_of, noise_variance
from melfed.common.tensors import load_tensors, save_tensors
from melfed.server.runs.counts import Counts
from melfed.server.runs.outcome import ReportedAccount
from melfed.server.runs.releases import Release, Releases

DIGEST = "d" * 64
ACCOUNT = ReportedAccount(3.0, "a" * 64, 2.0, None)


def moments(seed: int) -> NoisyMoments:
    numbers = np.random.default_rng(seed).integers(-9, 9, (2, length_of(3)))
    return NoisyMoments(numbers[0], numbers[1], noise_variance(2.0))


def release_of(seed: int, account: ReportedAccount | None = ACCOUNT) -> Release:
    counts = Counts(numbers={"train_units": 30 + seed}, noise=1.5)
    return Release(moments(seed), moments(seed + 100), counts, account, 1234)


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return Releases(tmp_path / "run" / "releases", DIGEST)


@pytest.fixture
def three(releases: Releases) -> Releases:
    releases.folder.parent.mkdir()
    for seed, name in enumerate(["north", "a/b ü", "x" * 300]):
        releases.keep(name, release_of(seed, ACCOUNT if seed else None))
    return releases


def file_of(releases: Releases, start: str) -> Path:
    (path,) = releases.folder.glob(f"{start}*")
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_what_was_kept_comes_back_by_name(three: Releases) -> None:
    found = three.kept()
    assert list(found) == ["a/b ü", "north", "x" * 300]
    for seed, name in enumerate(["north", "a/b ü", "x" * 300]):
        kept, given = found[name], release_of(seed, ACCOUNT if seed else None)
        assert (kept.counts, kept.account, kept.size) == (given.counts, given.account, given.size)
        for part in ("train", "validation"):
            arrays = getattr(given, part).to_arrays()
            assert getattr(kept, part).to_arrays().keys() == arrays.keys()
            assert all(np.array_equal(getattr(kept, part).to_arrays()[array], arrays[array]) for array in arrays)
    assert three.folder.stat().st_mode & 0o777 == 0o700
    assert three.whole().keys() == found.keys()


def test_of_a_run_without_releases_there_are_none(releases: Releases) -> None:
    assert releases.kept() == releases.whole() == {}
    with pytest.raises(RunError, match=r"run: clinic 'north' took no part in it; nobody did$"):
        releases.forget("north")


def test_a_second_release_takes_the_place_of_the_first(three: Releases) -> None:
    three.keep("north", release_of(7))
    assert len(three.kept()) == 3
    assert three.kept()["north"].counts.numbers == {"train_units": 37}


def test_a_damaged_one_is_named_and_a_run_that_goes_on_drops_it_alone(three: Releases) -> None:
    path = file_of(three, "north")
    flip(path)
    with pytest.raises(RunError, match=f"^{path}: damaged"):
        three.kept()
    assert list(three.whole()) == ["a/b ü", "x" * 300]
    assert not path.exists()


def test_another_studys_and_another_clinics_are_refused(three: Releases) -> None:
    with pytest.raises(RunError, match="of another study or clinic; bring it back from a backup"):
        Releases(three.folder, "e" * 64).kept()
    shutil.copy(file_of(three, "north"), three.folder / "south.safetensors")
    with pytest.raises(RunError, match=r"south\.safetensors: of another study or clinic"):
        three.kept()


@pytest.mark.parametrize("lost", ["header", "arrays"])
def test_a_whole_file_that_is_no_release_is_refused(three: Releases, lost: str) -> None:
    path = file_of(three, "north")
    arrays, metadata = load_tensors(path)
    header = {} if lost == "header" else {"header": metadata["header"]}
    save_tensors(path, {n: a for n, a in arrays.items() if lost == "header" or "positives" not in n}, header)
    with pytest.raises(RunError, match=f"^{path}: no release of a clinic "):
        three.kept()


def test_who_is_forgotten_is_gone(three: Releases) -> None:
    three.forget("a/b ü")
    assert list(three.kept()) == ["north", "x" * 300]
    with pytest.raises(RunError, match=rf"run: clinic 'a/b ü' took no part in it; north, {'x' * 300} did$"):
        three.forget("a/b ü")


def test_what_cannot_be_deleted_is_named(three: Releases) -> None:
    path = file_of(three, "north")
    path.unlink()
    path.mkdir()  # nobody deletes a folder so, whoever runs the tests
    with pytest.raises(StorageError, match=f"^{path}: cannot be deleted: "):
        three.forget("north")


def test_without_a_folder_for_them_nothing_is_kept(releases: Releases) -> None:
    with pytest.raises(StorageError, match="releases: cannot be made: No such file or directory; free space and try"):
        releases.keep("north", release_of(0))
