"""The systemd units of a clinic as they are installed here: what the doctor holds against the rest."""

from pathlib import Path
from typing import Final

UNIT_FOLDERS: Final = (Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system"))
"""Where systemd looks, what counts more first."""

WORKER: Final = "melfed-worker.service"
MESSENGER: Final = "melfed-messenger.service"


def installed() -> set[str]:
    """Return the names of melfed's units."""
    return {path.name for folder in UNIT_FOLDERS for path in folder.glob("melfed-*.service")}


def setting(unit: str, key: str) -> str | None:
    """Return what an installed unit, with what `systemctl edit` has added, sets a key to; None where it does not."""
    main = next((folder / unit for folder in UNIT_FOLDERS if (folder / unit).is_file()), None)
    if main is None:
        return None
    added = [path for folder in UNIT_FOLDERS for path in (folder / f"{unit}.d").glob("*.conf")]
    found = None
    for path in (main, *sorted(added, key=lambda path: path.name)):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, separator, value = line.partition("=")
            if separator and name.strip() == key:
                found = value.strip()
    return found
