"""ONNX Runtime for the tests of the page: from melfed's cache, or npm; without either they are skipped."""

import pytest

from melfed.common.errors import RunError
from melfed.server.phone.runtime import runtime_files


@pytest.fixture(scope="session")
def runtime() -> dict[str, bytes]:
    try:
        return runtime_files()
    except RunError as error:
        pytest.skip(str(error))
