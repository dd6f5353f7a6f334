"""ImageNet weights: where they are found, that they are the right ones, and how they are read.

Looked for in this order: the file or folder that the study names (`model.weights`), that the caller names
(`--weights-dir`), that the environment names (`MELFED_WEIGHTS`); the installed package that holds them; melfed's own
cache; torchvision's download or, for `timm/NAME`, that which timm's configuration of the model names (the Hugging Face
hub, mostly), which fill the cache. With `MELFED_OFFLINE=1` nothing is downloaded.
"""

import hashlib
import http.client
import importlib.util
import logging
import os
import pickle
import re
import struct
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from melfed.common.data.images.store import default_cache
from melfed.common.errors import RunError, StorageError, WeightsError
from melfed.common.files import atomic_write
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.backbones.spec import BackboneSpec
from melfed.common.model.backbones.timm_models import configuration, load
from melfed.common.model.hub import HubError, hub_file
from melfed.common.tensors import load_tensors

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES: Final = (".pth", ".pt", ".bin", ".safetensors")
DOWNLOAD_TIMEOUT_SECONDS: Final = 30.0
"""Longest silence of the server before a download is given up."""

_OF_A_RUN: Final = frozenset({"study", "backbone", "data"})
"""What the header of a run's model holds; files from elsewhere may have headers of another form."""

_log = logging.getLogger(__name__)

# Torchvision's published DenseNets are older than the ban on dots in module names.
_OLD_DENSENET: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_DAMAGE: Final = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    struct.error,
)
"""What torch's reader raises on damaged files, depending on the place of the damage."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A file of weights: its SHA-256 (64 hexadecimal digits), and the source that led to it."""

    path: Path
    sha256: str
    origin: str


def find_weights(
    backbone: str,
    *,
    weights: Path | None = None,
    weights_dir: Path | None = None,
    expected_sha256: str | None = None,
    download: bool = True,
) -> WeightsFile:
    """Find a backbone's ImageNet weights.

    In a folder, the file has the name under which the weights are published, or else is the only one that is named
    after the backbone: `<backbone>-…` or `<backbone>.…`, ending in .pth, .pt or .safetensors. Where the study states a
    digest, any file of weights in the folder that has it will do, and the model of any finished run in the folder.

    Args:
        backbone: a name of `melfed.common.model.backbones.BACKBONES`.
        weights: file or folder that the study names.
        weights_dir: folder (or file) that the caller names.
        expected_sha256: the digest that the study states, if it does.
        download: whether the network may be used.

    Raises:
        StudyError: there is no such backbone.
        WeightsError: there are no weights, several fit, or they are others than the study states.
        StorageError: the download cannot be kept.
    """
    spec = backbone_spec(backbone)
    environment = os.environ.get("MELFED_WEIGHTS")
    named = {
        "model.weights": weights,
        "--weights-dir": weights_dir,
        "MELFED_WEIGHTS": Path(environment) if environment else None,
    }
    places = {origin: place.expanduser() for origin, place in named.items() if place is not None}
    for origin, place in places.items():
        if path := _in_place(place, origin, backbone, expected_sha256):
            return _verified(path, origin, expected_sha256)
    if path := _in_package(spec):
        return _verified(path, f"package {spec.package}", expected_sha256)
    if spec.timm is not None:
        return _of_timm(backbone, list(places.values()), expected_sha256, download)
    url = published_url(backbone)
    wanted = f" (the study's have SHA-256 {expected_sha256})" if expected_sha256 else ""
    if url is None:
        raise WeightsError(_how_to_get(backbone, list(places.values())) + wanted)
    path = default_cache() / "weights" / _file_name(url)
    if not path.is_file():
        allowed = download and os.environ.get("MELFED_OFFLINE", "0") == "0"
        reason = _download(url, path) if allowed else "downloads are off"
        if reason:
            raise WeightsError(_how_to_get(backbone, [*places.values(), path.parent], url, reason) + wanted)
    return _verified(path, "download", expected_sha256, _digest_prefix(url))


def _of_timm(backbone: str, places: list[Path], expected: str | None, download: bool) -> WeightsFile:
    """Return the file that timm's own configuration of a model names, from melfed's cache or the network."""
    settings, cache = configuration(backbone), default_cache() / "weights"
    hub, url, name = settings.get("hf_hub_id"), settings.get("url"), _short(backbone)
    if not hub and not url:
        raise WeightsError(f"{backbone}: timm publishes no weights of it; name a file of your own in model.weights")
    where = f"{hub} of the Hugging Face hub" if hub else str(url)
    allowed = download and os.environ.get("MELFED_OFFLINE", "0") == "0"
    if not allowed:
        reason: str | None = "downloads are off"
    elif hub:
        try:
            return _verified(hub_file(settings, cache / "hub"), f"Hugging Face hub, {hub}", expected)
        except HubError as error:
            reason = str(error)
    else:
        path = cache / _file_name(str(url))
        reason = None if path.is_file() else _download(str(url), path)
        if reason is None:
            return _verified(path, "download", expected, _digest_prefix(str(url)))
    looked = f" in {', '.join(map(str, places))}" if places else ""
    raise WeightsError(
        f"{backbone}: no {name}.safetensors{looked}, and {where} could not be downloaded ({reason}): connect to the "
        "internet, or get its weights elsewhere and name their folder with --weights-dir (or MELFED_WEIGHTS)"
    )


def load_weights(file: WeightsFile, backbone: str) -> "dict[str, Tensor]":
    """Read a backbone's weights, without the ImageNet classifier and BatchNorm's batch counters.

    Args:
        file: found by `find_weights`; never unpickled into anything but tensors.
        backbone: a name of `melfed.common.model.backbones.BACKBONES`.

    Returns:
        float32 tensors on the CPU, with exactly the names and shapes of the backbone's own `state_dict`.

    Raises:
        StudyError: there is no such backbone.
        WeightsError: the file is damaged, holds more than tensors, or is of another model; names up to three tensors
            of each kind of difference.
    """
    spec = backbone_spec(backbone)
    if spec.timm is not None:
        try:
            state = load(backbone, _read(file.path))
        except WeightsError as error:
            raise WeightsError(f"{file.path}: {error}" if str(file.path) not in str(error) else str(error)) from None
        return _checked(file, backbone, {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")})
    left_out = tuple(f"{name}." for name in (spec.classifier, *spec.other_names) if name is not None)
    state = {
        _OLD_DENSENET.sub(r"\1\2", name): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in _read(file.path).items()
        if not name.startswith(left_out) and not name.endswith("num_batches_tracked")
    }
    expected = _expected_shapes(backbone)
    if spec.package is not None and state.keys() != expected.keys() and _kinds(state) == _kinds(expected):
        state = dict(zip(expected, state.values(), strict=True))
    return _checked(file, backbone, state)


def _checked(file: WeightsFile, backbone: str, state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors of a file that are a backbone's. Raises WeightsError where they are not."""
    import torch

    expected = _expected_shapes(backbone)
    differences = _differences(state, expected)
    if differences:
        raise WeightsError(f"{file.path}: not the weights of {backbone}: {differences}; name the backbone's own file")
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise WeightsError(f"{file.path}: damaged: {_some(broken)} not finite; get the file again")
    return state


def run_metadata(file: WeightsFile) -> dict[str, Any] | None:
    """Return what a run's model says of itself (`study`, `backbone`, `data`); None for weights from elsewhere."""
    if file.path.suffix != ".safetensors" or not _says_of_itself(file.path):
        return None
    try:
        metadata = load_tensors(file.path)[1]
    except RunError as error:
        raise WeightsError(str(error)) from None
    return metadata if metadata.keys() >= _OF_A_RUN else None


def _says_of_itself(path: Path) -> bool:
    """Tell whether a header has what that of a run has; what is wrong with a damaged file, `load_tensors` tells."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            return (opened.metadata() or {}).keys() >= _OF_A_RUN
    except (safetensors.SafetensorError, OSError):
        return True


def published_url(backbone: str) -> str | None:
    """Return where torchvision publishes a backbone's weights; None where it does not."""
    version = backbone_spec(backbone).published
    if version is None:
        return None
    from torchvision.models import get_model_weights

    return str(get_model_weights(backbone)[version].url)


def _in_place(place: Path, origin: str, backbone: str, expected: str | None) -> Path | None:
    """Return the file that a named file or folder leads to; None where a folder holds none for this backbone."""
    try:
        if place.is_file():
            return place
        files = {path.name for path in place.iterdir() if path.is_file()}
        if expected is not None and (path := _by_digest(place, files, backbone, expected)):
            return path
    except OSError as error:
        raise WeightsError(f"{place} ({origin}): {error.strerror}; correct the path or leave it out") from error
    if "study.yaml" in files:
        if "model.safetensors" not in files:
            raise WeightsError(f"{place} ({origin}): a run without one final model; let it finish, or name another")
        return place / "model.safetensors"
    names = [name for name in files if name.endswith(SUFFIXES)]
    published = _published_name(backbone)
    if published in names:
        return place / published
    short = _short(backbone)
    fitting = sorted(name for name in names if name.startswith((f"{short}-", f"{short}.")))
    if len(fitting) > 1:
        raise WeightsError(
            f"{place} ({origin}): {fitting[0]} and {fitting[1]} are both named after {backbone}; name one file"
        )
    return place / fitting[0] if fitting else None


def _by_digest(folder: Path, files: set[str], backbone: str, expected: str) -> Path | None:
    """Return the file of a folder that has a SHA-256: its own files of weights first, then the models of runs in it.

    A clinic that gets a study finds its warm start by nothing else: the coordinator's path means nothing there.
    """
    # Those named after the backbone first: the others may be many and large.
    short = _short(backbone)
    names = sorted((name for name in files if name.endswith(SUFFIXES)), key=lambda n: (not n.startswith(short), n))
    runs = (study.parent / "model.safetensors" for study in sorted(folder.glob("*/study.yaml")))
    return next((path for path in (*(folder / name for name in names), *runs) if _is(path, expected)), None)


def _is(path: Path, sha256: str) -> bool:
    try:
        return _sha256(path) == sha256.lower()
    except OSError:
        # A file that cannot be read may be none that the study needs; if it is, the study's stays unfound.
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _published_name(backbone: str) -> str | None:
    spec = backbone_spec(backbone)
    published = spec.package_file or published_url(backbone)
    return _file_name(published) if published else None


def _in_package(spec: BackboneSpec) -> Path | None:
    """Return the installed package's file without running the package's code; None where it is not installed."""
    if spec.package is None or spec.package_file is None:
        return None
    package = importlib.util.find_spec(spec.package)
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / spec.package_file


def _verified(path: Path, origin: str, expected: str | None, prefix: str = "") -> WeightsFile:
    try:
        digest = _sha256(path)
    except OSError as error:
        raise WeightsError(f"{path} ({origin}): {error.strerror}; make the file readable") from error
    if not digest.startswith(prefix):
        raise WeightsError(f"{path}: SHA-256 is {digest}, but its publisher says {prefix}…; delete the file")
    if expected is not None and digest != expected.lower():
        raise WeightsError(
            f"{path}: SHA-256 is {digest}, but the study says {expected}; name the file that the study means, or "
            "correct model.weights_sha256"
        )
    return WeightsFile(path, digest, origin)


def _download(url: str, target: Path) -> str | None:
    """Fetch a file into place, whole or not at all; returns why it could not be fetched, or None."""
    _log.info("downloading %s to %s", url, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{target.parent}: cannot be made: {error.strerror}; set MELFED_CACHE") from error
    try:
        with atomic_write(target, 0o644) as file:
            digest = hashlib.sha256()
            for block in _blocks(url):
                digest.update(block)
                file.write(block)
            if not digest.hexdigest().startswith(_digest_prefix(url)):
                raise _DownloadError("what came is not what its publisher names; the connection may alter downloads")
    except _DownloadError as error:
        return str(error)
    return None


class _DownloadError(Exception):
    """The network's fault; no OSError, which would mean the disk's."""


def _blocks(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_SECONDS) as response:  # noqa: S310 (torchvision's)
            while block := response.read(1 << 20):
                yield block
    except (OSError, http.client.HTTPException) as error:
        raise _DownloadError(str(error) or type(error).__name__) from error


def _short(backbone: str) -> str:
    """Return how the files of a backbone begin: timm's own name of one of its models."""
    return backbone.rpartition("/")[2]


def _file_name(url: str) -> str:
    return url.rpartition("/")[2]


def _digest_prefix(url: str) -> str:
    """Return the beginning of the SHA-256 that torchvision writes into its file names."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return match[1] if match else ""


def _how_to_get(backbone: str, places: list[Path], url: str | None = None, reason: str = "") -> str:
    """Return the error where nothing was found: file, folders, and the two ways out."""
    spec = backbone_spec(backbone)
    name = _published_name(backbone) or f"{backbone}.pth"
    looked = f" in {', '.join(map(str, places))}" if places else ""
    named = "name its folder with --weights-dir (or MELFED_WEIGHTS)"
    if url:
        return (
            f"{backbone}: {name} is not{looked}, and could not be downloaded ({reason}): connect to the internet, or "
            f"fetch {url} elsewhere and {named}"
        )
    if spec.package:
        distribution = spec.package.replace("_", "-")
        return f"{backbone}: no {name}{looked or ' here'}: `pip install {distribution}`, or get the file and {named}"
    return f"{backbone}: no {name}{looked or ' here'}, and none is published: {named}, or set model.pretrained: false"


def _read(path: Path) -> "dict[str, Tensor]":
    """Read a file of named tensors."""
    import safetensors
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: not loaded, since it is damaged or holds more than tensors; save a plain state_dict, best as "
            "safetensors"
        ) from error
    except (*_DAMAGE, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path}: damaged, or no file of weights; get it again") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no plain state_dict (names and tensors); save one")
    return {str(name): tensor for name, tensor in content.items()}


def _expected_shapes(backbone: str) -> dict[str, tuple[int, ...]]:
    import torch

    from melfed.common.model.classifier import build_trunk

    # Some models of timm compute with their values while they are made.
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if backbone_spec(backbone).timm else "meta"):
        state = build_trunk(backbone, pretrained=True).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _kinds(names: Mapping[str, object]) -> list[str]:
    """Return what each tensor is to its module: weight, bias, running_mean, running_var."""
    return [name.rpartition(".")[2] for name in names]


def _differences(state: "Mapping[str, Tensor]", expected: Mapping[str, tuple[int, ...]]) -> str:
    import torch

    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    types = [f"{name} {state[name].dtype}" for name in expected if name in state and state[name].dtype != torch.float32]
    kinds = {
        "lacks": [name for name in expected if name not in state],
        "has unknown": [name for name in state if name not in expected],
        "has wrong shapes:": shapes,
        "has wrong types:": types,
    }
    return "; ".join(f"{words} {_some(names)}" for words, names in kinds.items() if names)


def _some(names: list[str]) -> str:
    """Return up to three of the names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
