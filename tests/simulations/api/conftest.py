"""One run for all tests of the Python interface that look at one."""

from pathlib import Path

import pytest

from melfed.simulations import Run, simulate
from tests.simulations.api.runs import STUDY


@pytest.fixture(scope="package")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("api")
    return simulate(STUDY, phantom, out=folder / "run", cache=folder / "cache", quiet=True)
