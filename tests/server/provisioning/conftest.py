"""The kits of a small consortium."""

from pathlib import Path

import pytest

from melfed.server.provisioning.provision import provision
from tests.server.kits import consortium_file


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kits of two clinics, one of which has its data named; not to be changed."""
    folder = tmp_path_factory.mktemp("consortium")
    (folder / "weights.pt").write_bytes(b"weights")
    data = {"folder": "images", "sources": ["a*", "b"]}
    clinics = [
        {"name": "amsterdam", "data": data, "messenger_user": "carrier"},
        {"name": "berlin", "health_port": None},
    ]
    provision(consortium_file(folder, clinics=clinics, weights=["weights.pt"]), folder / "kits")
    return folder / "kits"
