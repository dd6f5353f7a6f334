"""The log of a child is turned over, and holds nobody up."""

import os
from pathlib import Path

from melfed.common.process.log_file import ChildLog
from tests.common.process.scenes import until


def test_a_log_is_turned_over_and_three_old_ones_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with ChildLog(path, lambda _: None, largest=100) as log:
        for piece in range(8):
            os.write(log.descriptor, b"%d" % piece * 60)
            until(lambda piece=piece: path.exists() and path.read_bytes() == b"%d" % piece * 60)
    with ChildLog(path, lambda _: None, largest=100) as log:
        os.write(log.descriptor, b"8" * 30)
    found = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert found == {"log": "7" * 60 + "8" * 30, "log.1": "6" * 60, "log.2": "5" * 60, "log.3": "4" * 60}


def test_a_log_that_cannot_be_written_holds_nobody_up(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "folder").touch()
    path = tmp_path / "folder" / "log"
    with ChildLog(path, told.append) as log:
        for _ in range(4):
            os.write(log.descriptor, b"x" * 100_000)  # more than a pipe holds
        until(lambda: log._lost == 400_000)
        (tmp_path / "folder").unlink()
        os.write(log.descriptor, b"again")
    assert told == ["log: cannot be written: File exists; output is dropped until it can"]
    assert path.read_bytes() == b"\n[400000 bytes could not be written]\nagain"
