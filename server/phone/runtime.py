"""ONNX Runtime for browsers, taken from npm's registry when a page is built: one version, whose archive is known by its
SHA-512. Nothing of it is kept in melfed, and a page loads nothing of it from anywhere but its own folder.
"""

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from melfed.common.data.images.store import default_cache
from melfed.common.errors import RunError
from melfed.common.files import atomic_write

PACKAGE: Final = "onnxruntime-web"
VERSION: Final = "1.27.0"
INTEGRITY: Final = "sha512-ogDLsqIozHZwifPuN37OproAo0byX6t43/bP8GzeZWBWD6MOGExswFAx3up4NS/vvWBOg2u2PXomDt3rMmdQSg=="
"""Of the package's archive, as npm states it."""
FILES: Final = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What of it a page needs: the WebAssembly build for processors, 13 MB."""
NOTICE: Final = f"{PACKAGE} {VERSION}, © Microsoft Corporation, MIT licence: https://opensource.org/license/mit\n"
TIMEOUT_SECONDS: Final = 300
_ELSEWHERE: Final = (
    f"on a machine that has npm and a network, `npm pack {PACKAGE}@{VERSION}` writes a file: name it with --runtime"
)


def runtime_files(archive: Path | None = None) -> dict[str, bytes]:
    """Return what a page needs of ONNX Runtime, by name.

    Args:
        archive: the package's file, where npm is not to be asked; else one that was got before, or npm's.

    Raises:
        RunError: npm is not installed or cannot get it, or the file is another than the one that is pinned.
        StorageError: it cannot be kept.
    """
    if archive is not None:
        return _unpacked(_checked(_read(archive), str(archive)))
    kept = default_cache() / "npm" / f"{PACKAGE}-{VERSION}.tgz"
    if kept.is_file():
        return _unpacked(_checked(_read(kept), str(kept)))
    content = _checked(_from_npm(), f"npm's {PACKAGE} {VERSION}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(kept, 0o644) as file:
        file.write(content)
    return _unpacked(content)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; {_ELSEWHERE}") from None


def _from_npm() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise RunError(f"a page needs {PACKAGE}, and npm is not installed here; {_ELSEWHERE}")
    with tempfile.TemporaryDirectory() as folder:
        # What is got is checked against the digest above; nothing of the package is run.
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--pack-destination", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise RunError(f"npm has not answered within {TIMEOUT_SECONDS} s; {_ELSEWHERE}") from None
        files = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(files) != 1:
            told = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            reason = told[0].strip() if told else f"it left with {done.returncode}"
            raise RunError(f"npm cannot get {PACKAGE} {VERSION} ({reason}); {_ELSEWHERE}")
        return files[0].read_bytes()


def _checked(content: bytes, where: str) -> bytes:
    found = "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode("ascii")
    if found != INTEGRITY:
        raise RunError(f"{where}: not {PACKAGE} {VERSION}: its SHA-512 is another than the pinned one; {_ELSEWHERE}")
    return content


def _unpacked(content: bytes) -> dict[str, bytes]:
    found = {"NOTICE.txt": NOTICE.encode()}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # noqa: S101 (the archive is known to the last bit)
            found[name] = member.read()
    return found
