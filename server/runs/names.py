"""Names of deployed runs, folders directly below the folder of runs, and of the files that a run has a clinic."""

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

from melfed.common.errors import RunError
from melfed.server.config import ServerConfig

LONGEST_NAME = 120
"""Of a clinic's file; what is longer is named by its SHA-256."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def run_path(config: ServerConfig, run: str) -> Path:
    """Return the folder of a run. Raises RunError where its name leads out of the folder of runs, or to nothing."""
    path = config.runs / run
    if not NAME.fullmatch(run) or path.is_symlink() or not path.is_dir():
        raise RunError(f"{config.runs}: no run is called {run!r}; see melfed-server status")
    return path


def clinic_file(clinic: str) -> str:
    """Return the name of a clinic's file of tensors, whatever the clinic is called."""
    name = quote(clinic, safe=" ,()")
    return f"{name if len(name) <= LONGEST_NAME else hashlib.sha256(clinic.encode()).hexdigest()}.safetensors"
