"""The app bundle that Flower carries to the clinics: names of what is installed there, and no code.

Clinics approve the bundle by its SHA-256, so it depends on the version of melfed's messages alone, and an update of
melfed needs no new approval. It is written here byte by byte rather than by Flower's own tool, whose compression
differs between builds of zlib.
"""

import hashlib
import io
import zipfile

from melfed.common.errors import ServerConfigError
from melfed.common.messages import MESSAGE_VERSION

SERVER_APP, CLIENT_APP = "melfed.server.flower.deployed:app", "melfed.client.flower.deployed:app"

_MANIFEST = ".info/CONTENT"
_PROJECT = "pyproject.toml"
_TEXT = f"""\
[project]
name = "melfed"
version = "{MESSAGE_VERSION}.0.0"
description = "Federated learning of a melanoma classifier: the apps installed at each side, by name"
license = {{ text = "Apache-2.0" }}
dependencies = []

[tool.flwr.app]
publisher = "melfed"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
run = ""
"""


def build_bundle() -> bytes:
    """Return the bundle: a zip file with a project file and Flower's list of contents, the same bytes everywhere."""
    project = _TEXT.encode()
    manifest = f"{_PROJECT},{hashlib.sha256(project).hexdigest()},{len(project) * 8}"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in ((_PROJECT, project), (_MANIFEST, manifest.encode())):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content, compress_type=zipfile.ZIP_STORED)
    return buffer.getvalue()


def bundle_digest(bundle: bytes) -> str:
    """Return what clinics approve: SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(bundle).hexdigest()


def check_bundle(bundle: bytes, where: str) -> None:
    """Raise ServerConfigError where a bundle is not the one that this version of melfed can serve."""
    if bundle != build_bundle():
        raise ServerConfigError(
            f"{where}: not the app bundle of this version of melfed; put the kit's own back, or provision anew"
        )
