"""Files from the Hugging Face hub, by its own client against a stand-in."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from melfed.common.model.hub import HubError, hub_file

SETTINGS = {"hf_hub_id": "timm/test_vit.r160_in1k", "hf_hub_filename": None}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hub has by file name; an exception is raised."""
    has: dict[str, Any] = {}

    def download(repository: str, name: str, *, cache_dir: Path, etag_timeout: float) -> str:
        assert repository == SETTINGS["hf_hub_id"]
        assert etag_timeout > 0
        found = has.get(name, EntryNotFoundError(f"no {name}"))
        if isinstance(found, Exception):
            raise found
        return str(cache_dir / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return has


def test_the_first_file_that_there_is(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["pytorch_model.bin"] = True
    assert hub_file(SETTINGS, tmp_path) == tmp_path / "pytorch_model.bin"
    hub["model.safetensors"] = True
    assert hub_file(SETTINGS, tmp_path) == tmp_path / "model.safetensors"


def test_a_file_of_another_name(hub: dict[str, Any], tmp_path: Path) -> None:
    hub |= {"other.safetensors": True, "model.safetensors": True}
    assert hub_file({**SETTINGS, "hf_hub_filename": "other.safetensors"}, tmp_path) == tmp_path / "other.safetensors"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (LocalEntryNotFoundError("no connection\nRetrying"), "no connection"),
        (OSError(), "OSError"),
        (None, "no pytorch_model.bin"),
    ],
)
def test_what_goes_wrong_is_one_line(
    problem: Exception | None, words: str, hub: dict[str, Any], tmp_path: Path
) -> None:
    if problem:
        hub["model.safetensors"] = problem
    with pytest.raises(HubError) as caught:
        hub_file(SETTINGS, tmp_path)
    assert str(caught.value) == words
