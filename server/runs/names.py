"""Names of deployed runs: folders directly below the folder of runs."""

import re
from pathlib import Path

from melfed.common.errors import RunError
from melfed.server.config import ServerConfig

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def run_path(config: ServerConfig, run: str) -> Path:
    """Return the folder of a run. Raises RunError where its name leads out of the folder of runs, or to nothing."""
    path = config.runs / run
    if not NAME.fullmatch(run) or path.is_symlink() or not path.is_dir():
        raise RunError(f"{config.runs}: no run is called {run!r}; see melfed-server status")
    return path
