"""Which files go when a clinic deletes the moments that it gave a run."""

from pathlib import Path

import numpy as np
import pytest

from melfed.client.worker.kept_moments import delete_moments
from melfed.client.worker.reply_store import ReplyStore
from melfed.common.errors import StorageError

TENSORS = {"train/positives": np.arange(3)}


def kept(ledger: Path, name: str, run: str, purpose: str = "moments") -> Path:
    """The file of a reply to a run, as the clinic keeps it beside its ledger."""
    path = ledger.with_suffix(f".{purpose}-{name * 16}.safetensors")
    ReplyStore(path).save("key", TENSORS, {"run": run})
    return path


@pytest.mark.parametrize("name", ["north", "north.v2", "clinic [of the] north", "n*"])
def test_the_moments_of_a_run_go_and_nothing_else(tmp_path: Path, name: str) -> None:
    ledger = tmp_path / f"{name}.jsonl"
    ledger.write_text("rows\n")
    gone = [kept(ledger, "a", "run 1"), kept(ledger, "b", "run 1")]
    stays = [ledger, kept(ledger, "c", "run 2"), kept(ledger, "a", "run 1", "evaluation")]
    stays += [kept(tmp_path / f"{other}.jsonl", "a", "run 1") for other in ("nord", "north of it", "o")]
    assert delete_moments(ledger, "run 1")
    assert not [path for path in gone if path.exists()]
    assert not [path for path in stays if not path.exists()]
    assert not delete_moments(ledger, "run 1"), "there are none any more"
    assert not delete_moments(ledger, "run 3")


@pytest.mark.parametrize("content", [b"", b"no safetensors file"])
def test_a_damaged_file_is_nobodys(tmp_path: Path, content: bytes) -> None:
    ledger = tmp_path / "north.jsonl"
    kept(ledger, "a", "run 1").write_bytes(content)
    assert not delete_moments(ledger, "None")
    whole = kept(ledger, "b", "run 1")
    assert delete_moments(ledger, "run 1")
    assert not whole.exists()


def test_what_cannot_be_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(tmp_path / "north.jsonl", "a", "run 1")

    def refuse(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError) as caught:
        delete_moments(tmp_path / "north.jsonl", "run 1")
    assert str(caught.value) == f"{path}: cannot be deleted: Permission denied"
