"""Fixtures that the server's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.server.finished import finish, study_with


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network."""
    path = tmp_path_factory.mktemp("runs") / "run"
    finish(path, study_with())
    return path
