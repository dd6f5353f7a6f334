"""The catalogue of backbones, and every one of them as a classifier."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from melfed.common.errors import StudyError
from melfed.common.model.backbones import BACKBONES, backbone_spec
from melfed.common.model.classifier import Classifier, build_classifier, set_trainable
from melfed.common.model.weights import WeightsFile, load_weights
from tests.common.networks import Choices, count, images, library_model, plain_state, with_random_head

NAMES = [
    "efficientnet_b0",
    "efficientnet_b2",
    "efficientnet_lite0",
    "mnasnet1_0",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "densenet121",
    "densenet161",
    "squeezenet1_0",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "googlenet",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "vgg11",
    "vgg16",
    "simple_cnn",
]

# Parameters of head and affine, and of the whole network in millions: counted over the library's models themselves.
COUNTS = {
    "efficientnet_b0": (1281, 52_637, 4.01),
    "mnasnet1_0": (1281, 39_201, 3.10),
    "mobilenet_v2": (1281, 35_393, 2.23),
    "densenet121": (1025, 84_673, 6.95),
    "squeezenet1_1": (513, 3_457, 0.72),
    "shufflenet_v2_x1_0": (1025, 17_205, 1.25),
    "googlenet": (1025, 15_585, 5.60),
    "resnet50": (2049, 55_169, 23.51),
    "resnext50_32x4d": (2049, 70_273, 22.98),
    "vgg11": (4097, 15_041, 128.77),
}


@pytest.fixture(scope="module", params=NAMES)
def scratch(request: pytest.FixtureRequest) -> Classifier:
    """Every backbone from scratch; each is built once."""
    return with_random_head(build_classifier(Choices(request.param), seed=1, state=None))


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_catalogue_has_every_backbone_and_loads_no_torch() -> None:
    assert set(BACKBONES) >= set(NAMES)
    script = (
        "import sys, melfed.common.model.backbones as _; print({'torch', 'torchvision', 'timm'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StudyError, match=r"'resnet_18'; did you mean resnet18\?"):
        backbone_spec("resnet_18")


# --- every backbone from scratch -------------------------------------------------------------------------------------


def test_scratch_gives_finite_logits_that_depend_on_the_image(scratch: Classifier) -> None:
    with torch.no_grad():
        logits = scratch.eval()(images())
    assert logits.shape == (2,)
    assert logits.isfinite().all()
    assert logits[0] != logits[1]


def test_no_image_sees_its_batch_in_training(scratch: Classifier) -> None:
    scratch.train()
    scratch.dropout.eval()
    with torch.no_grad():
        together = scratch(images())
        alone = torch.cat([scratch(image[None]) for image in images()])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in scratch.modules())


def test_every_layer_with_parameters_is_used_once_a_forward(scratch: Classifier) -> None:
    calls: Counter[str] = Counter()
    owners = {name: m for name, m in scratch.named_modules() if list(m.parameters(recurse=False))}
    hooks = [m.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, m in owners.items()]
    with torch.no_grad():
        scratch(images())
    for hook in hooks:
        hook.remove()
    assert calls == dict.fromkeys(owners, 1)
    names = [name for name, _ in scratch.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in scratch.parameters()})


def test_parts_are_nested_and_the_last_block_exists(scratch: Classifier) -> None:
    parameters = [name for name, _ in scratch.named_parameters()]
    for prefix in BACKBONES[scratch.backbone].last_block:
        assert any(name.startswith(f"trunk.{prefix}.") for name in parameters), prefix
    counts = []
    for part in ("head", "affine", "last_block", "full"):
        set_trainable(scratch, part)  # type: ignore[arg-type]
        counts.append(count(scratch))
    head, affine, last_block, full = counts
    assert head < affine < full
    assert head < last_block < full
    assert head == BACKBONES[scratch.backbone].features + 1
    if scratch.backbone in COUNTS:
        assert (head, affine) == COUNTS[scratch.backbone][:2]
        assert full / 1e6 == pytest.approx(COUNTS[scratch.backbone][2], abs=0.006)


# --- every family with pretrained weights: the library's own model in eval() is the oracle ---------------------------


def library_features(model: nn.Module, name: str, batch: Tensor) -> Tensor:
    """What reaches the library's own classifier, evaluated."""
    seen: list[Tensor] = []
    if name.startswith("squeezenet"):
        last = model.features
        hook = last.register_forward_hook(lambda _m, _i, output: seen.append(output.mean((2, 3))))
    else:
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        hook = last.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(batch)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "simple_cnn"])
def test_frozen_statistics_compute_what_the_library_does(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = library_model(name)
    if name == "vgg16":  # half a gigabyte need not pass the disk twice; VGG11 takes that way
        state = plain_state(original, name)
    else:
        path = tmp_path / f"{name}.pth"
        torch.save(original.state_dict(), path)
        state = load_weights(WeightsFile(path, "", "test"), name)
        path.unlink()
    model = with_random_head(build_classifier(Choices(name, pretrained=True), seed=0, state=state)).train()
    statistics = {key: value.clone() for key, value in model.state_dict().items() if "running_" in key}

    wanted = library_features(original, name, images())
    features = model.trunk(images())

    scale = wanted.abs().max()
    assert scale > 1e-3
    assert ((features - wanted).abs().max() / scale).item() < 1e-5

    logits = model(images())
    assert logits.shape == (2,)
    assert logits.isfinite().all()
    if statistics:
        logits.sum().backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    for key, value in statistics.items():
        assert torch.equal(model.state_dict()[key], value)
    learnt = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert learnt == {key for key, _ in model.named_parameters()} - statistics.keys()
    norms = [key for key, m in original.named_modules() if isinstance(m, nn.BatchNorm2d) and not key.startswith("aux")]
    assert len(statistics) == 2 * len(norms)
