"""What the tests of the seam to Flower share."""

from pathlib import Path

import pytest

from melfed.common.process.object_folder import ObjectFolder


@pytest.fixture
def folder(tmp_path: Path) -> ObjectFolder:
    """A SuperNode's folder of objects, which is yet to be made."""
    return ObjectFolder(tmp_path / "objects")
