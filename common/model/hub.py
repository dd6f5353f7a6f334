"""Files of weights from the Hugging Face hub, where timm publishes most of its models."""

from pathlib import Path
from typing import Any, Final, cast

FILES: Final = ("model.safetensors", "pytorch_model.bin")
"""What timm calls the weights in a model's repository, the first that there is."""

TIMEOUT_SECONDS: Final = 30.0
"""Longest wait for the hub's answer to what it has."""


class HubError(Exception):
    """The hub could not be reached, or has no such file; says why in one line."""


def hub_file(settings: dict[str, Any], folder: Path) -> Path:
    """Return the file of weights that a configuration of timm's names, downloaded into a folder unless it is there.

    Args:
        settings: the configuration (`melfed.common.model.backbones.timm_models.configuration`), with `hf_hub_id`.
        folder: the hub's cache; nothing is kept in a home folder.

    Raises:
        HubError: it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The hub's own error has the bases of all that its client raises: which client that is changes with its version.
    its = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    failures: tuple[type[Exception], ...] = (*its, HFValidationError, EntryNotFoundError)
    names = [settings["hf_hub_filename"]] if settings.get("hf_hub_filename") else list(FILES)
    for name in names:
        try:
            return Path(hf_hub_download(settings["hf_hub_id"], name, cache_dir=folder, etag_timeout=TIMEOUT_SECONDS))
        except failures as error:
            absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            if not absent or name == names[-1]:
                raise HubError((str(error).splitlines() or [type(error).__name__])[0]) from error
    raise AssertionError  # the last name returns or raises
