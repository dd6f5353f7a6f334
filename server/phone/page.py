"""Writing the page's folder: its own static files, the model as ONNX, what is told of it, and ONNX Runtime.

Any web server that speaks HTTPS serves the folder as it is (`localhost` needs none); nothing is computed there. The
page's content security policy lets it speak to its own address alone, and its service worker keeps all of it on the
device.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

from melfed.common.errors import RunError, StorageError
from melfed.common.export.facts import ModelFacts
from melfed.common.export.formats import export
from melfed.common.model.classifier import Classifier
from melfed.server.phone.icons import icon

ICONS: Final = (192, 512)


def write_page(
    out: Path, model: Classifier, facts: ModelFacts, runtime: Mapping[str, bytes], int8: Path | None = None
) -> None:
    """Write a page that runs a model.

    Args:
        out: the folder; it must not exist.
        model: the trained classifier.
        facts: what is told of it.
        runtime: of `melfed.server.phone.runtime.runtime_files`.
        int8: folder of public images, to compute in 8 bits.

    Raises:
        RunError: the folder exists, the model needs more than a picture, or what writes ONNX is not installed.
        DataError: no usable images in that folder.
        StorageError: it cannot be written.
    """
    if out.exists():
        raise RunError(f"{out}: exists; name another --out")
    if facts.metadata:
        raise RunError("this model needs age, sex and site, which a page does not ask for; train one without metadata")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror}; name another --out") from None
    try:
        export(model, facts, "onnx", made / "model.onnx", int8)
        for name, content in {**_static(), **_of(facts), **{f"ort/{n}": c for n, c in runtime.items()}}.items():
            (made / name).parent.mkdir(exist_ok=True)
            (made / name).write_bytes(content)
        (made / "files.js").write_text(_kept(made), encoding="utf-8")
        made.chmod(0o755)
        made.rename(out)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error.strerror}; free space and try again") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _static() -> dict[str, bytes]:
    folder = resources.files("melfed.server.phone") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _of(facts: ModelFacts) -> dict[str, bytes]:
    """Return what differs from model to model."""
    told: dict[str, Any] = facts.model_dump(mode="json", exclude={"seen": {"packed"}})
    told["seen_in_words"] = "" if facts.seen is None else facts.seen.in_words()
    sizes = {side: f"icon-{side}.png" for side in ICONS}
    manifest = {
        "name": f"melfed: {facts.name}",
        "short_name": facts.name[:30],
        "description": facts.intended_use,
        "start_url": "./",
        "scope": "./",
        "display": "standalone",
        "background_color": "#ffffff",
        "theme_color": "#16324f",
        "icons": [
            {"src": name, "sizes": f"{side}x{side}", "type": "image/png", "purpose": "any maskable"}
            for side, name in sizes.items()
        ],
    }
    return {
        "facts.json": json.dumps(told).encode(),
        "manifest.webmanifest": json.dumps(manifest, indent=1).encode(),
        **{name: icon(side) for side, name in sizes.items()},
    }


def _kept(folder: Path) -> str:
    """Return the script that tells the service worker what it keeps, under a name that changes with any of it."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    kept = ["./", *sorted(files.keys() - {"sw.js"})]
    return f'self.VERSION = "melfed-{digest.hexdigest()}";\nself.FILES = {json.dumps(kept)};\n'
