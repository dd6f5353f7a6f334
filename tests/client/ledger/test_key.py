"""The secret key beside a ledger: made once, private, and never anew where there is a ledger."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from melfed.client.ledger.key import KEY_BYTES, ledger_key
from melfed.common.errors import LedgerError, StorageError


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    ledger = tmp_path / "worker" / "ledger.jsonl"
    key = ledger_key(ledger)
    assert len(key) == KEY_BYTES
    assert ledger_key(ledger) == key
    assert ledger_key(tmp_path / "other.jsonl") != key
    path = ledger.with_suffix(".key")
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    assert list(path.parent.iterdir()) == [path], "nothing else is left behind"


def test_all_who_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: ledger_key(tmp_path / "ledger.jsonl"), range(32)))
    assert len(keys) == 1


def test_a_ledger_without_its_whole_key_is_not_gone_on_with(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.touch()
    with pytest.raises(
        LedgerError, match=r"ledger.key: is missing, but there is a ledger; bring it back from the backup"
    ):
        ledger_key(ledger)
    ledger.with_suffix(".key").write_bytes(b"short")
    with pytest.raises(LedgerError, match=r"ledger.key: has 5 bytes instead of 32; bring it back from the backup"):
        ledger_key(ledger)


def test_a_key_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/ledger.key: cannot be made: "):
        ledger_key(tmp_path / "file" / "ledger.jsonl")
