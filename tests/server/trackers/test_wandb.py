"""Weights & Biases offline: files of one id, and nothing in them that nobody told."""

from pathlib import Path

import pytest

from melfed.server.trackers.wandb import FOLDER, WandB
from tests.server.trackers.told import a_track, folder_of_a_run

wandb = pytest.importorskip("wandb", reason="wandb is not installed (pip install 'melfed[wandb]')")


def test_a_resumed_run_adds_to_its_track_and_only_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = folder_of_a_run(tmp_path / "run")
    print("image of Anna Berg is broken")  # noqa: T201 (wandb would keep the terminal's lines)
    a_track(WandB(), folder, 1, [1, 2], ends=False)
    print("image of Anna Berg is broken")  # noqa: T201
    a_track(WandB(), folder, 3, [3, 4], ends=True)
    wandb.teardown()  # its own process may write after a run has finished, until it ends itself
    files = sorted((folder.path / FOLDER).glob(f"part-*/wandb/offline-run-*/run-{folder.identity}.wandb"))
    assert len(files) == 2, "two parts, of one id"
    assert b"validation/auroc" in files[0].read_bytes()
    assert b"epsilon" in files[1].read_bytes()
    kept = [path for path in (folder.path / FOLDER).rglob("*") if path.is_file()]
    assert not [path for path in kept if b"Anna Berg" in path.read_bytes()]
    assert not [path for path in kept if path.name in {"output.log", "wandb-metadata.json", "diff.patch"}]
    assert not list((tmp_path / "home").rglob("*"))
