"""The benchmark of reading: what it measures is the code of the checkout that it is given."""

import shutil
import subprocess
from pathlib import Path

import pytest

from melfed.simulations.benchmarks.reading import measure, write_table
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("archive", [False, True])
def test_both_tables_are_read(archive: bool, tmp_path: Path) -> None:
    rows = 1500
    for number in range(rows):
        (tmp_path / f"ISIC_{number:07d}.jpg").touch()
    write_table(tmp_path / "metadata.csv", rows, archive)
    found = measure(REPOSITORY, tmp_path, 1)
    assert (found.version, found.rows) == ("this", rows)
    assert found.table == ("ISIC archive" if archive else "ISIC 2024")
    assert 0 < found.melanomas < rows
    assert 0 < found.alone < found.cpu_seconds


def test_a_checkout_whose_reading_is_not_its_own_is_refused(tmp_path: Path) -> None:
    """An installed melfed must not stand in for an older one that calls its module otherwise."""
    shutil.copy(REPOSITORY / "common/__init__.py", tmp_path)
    with pytest.raises(subprocess.CalledProcessError):
        measure(tmp_path, tmp_path, 1)
