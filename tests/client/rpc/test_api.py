"""What a clinic answers: its version, told also where melfed was never installed, and no torch behind it."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from melfed.client.rpc import api


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.melfed_version() == version("melfed")

    def nowhere(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(api, "version", nowhere)
    assert api.melfed_version() == "unknown"


def test_knowing_a_worker_loads_no_torch() -> None:
    code = "import sys, melfed.client.rpc.api; print({'torch', 'opacus', 'grpc', 'flwr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
