"""A study that clinics are asked about without a run of it: a file by its digest, which the ServerApp reads."""

import re
from pathlib import Path
from typing import Final

from melfed.common.errors import RunError
from melfed.common.files import write_text
from melfed.common.study.file import recorded_study, study_yaml
from melfed.common.study.protocol import StudyProtocol
from melfed.server.config import ServerConfig

ASKED: Final = "?"
"""How the name begins under which Flower is given such a question in place of a run's, whose names never do."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def write_asked(config: ServerConfig, study: StudyProtocol) -> str:
    """Write the study to the state folder, and return what stands in place of a run's name. Raises StorageError."""
    path = _path(config, study.digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, study_yaml(study))
    return f"{ASKED}{study.digest}"


def asked_study(config: ServerConfig, name: str) -> StudyProtocol:
    """Return the study that such a name means. Raises RunError where there is none, StudyError where it is damaged."""
    digest = name.removeprefix(ASKED)
    path = _path(config, digest)
    if not _DIGEST.fullmatch(digest) or not path.is_file():
        raise RunError(f"{path.parent}: no study {digest[:12]!r} is asked about; ask again with melfed-server study")
    return recorded_study(path)


def _path(config: ServerConfig, digest: str) -> Path:
    return config.state / "asked" / f"{digest}.yaml"
