"""A coordinator whose daemon runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from melfed.common.locks import only_one
from melfed.server.config import ServerConfig
from tests.server.coordinator import make_kits
from tests.server.page.made import with_clinics


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerConfig]:
    """With clinics, and no run."""
    made = make_kits(Path(tmp_path_factory.mktemp("page"), "kits"), "ab")
    with_clinics(made)
    with only_one(made.daemon_lock, "the server is run"):
        yield made
