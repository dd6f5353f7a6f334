"""A cache that cannot be mapped is no full disk, and the limit that it met is named."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from melfed.client.training import feature_files
from melfed.common.data.images import cache as image_cache
from melfed.common.errors import StorageError
from melfed.common.process import memory
from melfed.common.process.memory import no_memory

REPOSITORY = Path(__file__).resolve().parents[3]
LIMITED = """
import resource, sys
from pathlib import Path
from melfed.common.errors import StorageError
from melfed.common.data.images.store import ImageStore
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.RLIM_INFINITY))
try:
    ImageStore.open(Path(sys.argv[1]), Path(sys.argv[2]), ["a.png"], 1024)
except StorageError as error:
    print(error)
"""


def test_a_control_groups_limit_counts_and_files_in_memory_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=16 << 30))
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_memory() == 16 << 30
    for name, content in {"max": 3 << 30, "current": 2 << 30, "stat": "anon 5\ninactive_file 1073741824"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{content}\n")
    assert memory.available_memory() == 2 << 30
    (tmp_path / "memory.current").write_text(str(8 << 30))
    assert memory.available_memory() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() == 16 << 30


def test_the_disk_is_not_the_memory() -> None:
    assert no_memory(OSError(errno.ENOSPC, "No space left on device")) == ""
    assert "memory" in no_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))


@pytest.mark.parametrize("errors", [image_cache.storage_errors, feature_files._storage_errors])
def test_a_cache_that_cannot_be_mapped_says_what_is_lacking(errors, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = "may have 2097152 kB of address space (ulimit -v); raise that: ulimit -v"
    for limit, words in ((2 << 30, limited), (-1, "the machine has no memory left")):
        monkeypatch.setattr("melfed.common.process.memory.resource.getrlimit", lambda _, limit=limit: (limit, limit))
        with pytest.raises(StorageError, match="cannot be mapped: the") as caught, errors(Path("/cache")):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        assert words in str(caught.value)
        assert "free some space" not in str(caught.value)


def test_under_a_real_limit(tmp_path: Path) -> None:
    """A file of 4 GB without content, in a process that may have 3 GB."""
    from PIL import Image

    from melfed.common.data.images.store import ImageStore

    (tmp_path / "data").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "data" / "a.png")
    cache = tmp_path / "cache"
    ImageStore.build(cache, tmp_path / "data", ["a.png"], 1024)
    (pixels,) = cache.rglob("pixels.u8")
    import sqlite3

    slot = (4 << 30) // (1024 * 1024 * 3)
    os.truncate(pixels, (slot + 1) * 1024 * 1024 * 3)
    with sqlite3.connect(next(cache.rglob("index.sqlite"))) as index:
        index.execute("UPDATE images SET slot = ?", (slot,))
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED, str(cache), str(tmp_path / "data")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert "cannot be mapped: the process may have 3145728 kB of address space (ulimit -v)" in answer.stdout, answer
