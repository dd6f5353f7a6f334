"""The catalogue of backbones, the classifier made of it, and its normalisation layers."""

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.backbones import BACKBONES, Part, backbone_spec
from common.classifier import (
    METADATA_FEATURES,
    Classifier,
    build_classifier,
    encode_metadata,
    load_trainable,
    set_trainable,
    trainable_tensors,
)
from common.errors import StudyError, WeightsError
from common.norms import FrozenStatisticsNorm, group_norm
from common.records import SITES, LesionRecord
from common.weights import WeightsFile, load_weights

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


@dataclass(frozen=True)
class Choices:
    """The choices of a study's model section."""

    backbone: str = "simple_cnn"
    pretrained: bool = False
    train: Part = "full"
    metadata: bool = False
    dropout: float = 0.0


def images(n: int = 2, size: int = 64) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(5))


def with_random_head(model: Classifier) -> Classifier:
    """The head starts at zero; a random one lets the features through to the logits."""
    nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(6))
    return model


def count(model: Classifier) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.fixture(scope="module", params=NAMES)
def scratch(request: pytest.FixtureRequest) -> Classifier:
    """Every backbone from scratch; each is built once."""
    return with_random_head(build_classifier(Choices(request.param), seed=1, state=None))


# --- the catalogue ---------------------------------------------------------------------------------------------------


def test_catalogue_has_every_backbone_and_loads_no_torch() -> None:
    assert list(BACKBONES) == NAMES
    script = "import sys, common.backbones; print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StudyError, match=r"'resnet_18'; did you mean resnet18\?"):
        backbone_spec("resnet_18")


def test_normalisation_is_that_of_the_published_weights() -> None:
    for name, spec in BACKBONES.items():
        if spec.published:
            transforms = torchvision.models.get_model_weights(name)[spec.published].transforms()
            assert (list(spec.mean), list(spec.std)) == (transforms.mean, transforms.std)
    assert BACKBONES["efficientnet_lite0"].mean == BACKBONES["efficientnet_lite0"].std == (0.5, 0.5, 0.5)


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


def test_head_starts_at_zero() -> None:
    model = build_classifier(Choices(), seed=0, state=None)
    assert not model(images()).any()


# --- every family with pretrained weights: the library's own model in eval() is the oracle ---------------------------


def library_model(name: str) -> nn.Module:
    """The library's own model with its ImageNet classifier, and statistics as if it had been trained."""
    generator = torch.Generator().manual_seed(3)
    if name == "efficientnet_lite0":
        model = timm.create_model("tf_efficientnet_lite0")
    elif name == "googlenet":
        model = torchvision.models.googlenet(aux_logits=True, init_weights=False, transform_input=True)
    elif name == "vgg16":
        with torch.device("meta"):
            model = torchvision.models.vgg16()
        model.to_empty(device="cpu")
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.02, 0.02, generator=generator)
    else:
        model = torchvision.models.get_model(name, weights=None)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=0.1, generator=generator)
            nn.init.uniform_(m.running_var, 0.5, 1.5, generator=generator)
            nn.init.uniform_(m.weight, 0.7, 1.3, generator=generator)
            nn.init.normal_(m.bias, std=0.1, generator=generator)
    return model.eval()


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


def plain_state(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of a library's model, as load_weights gives them."""
    classifier = f"{BACKBONES[name].classifier}."
    return {
        key: value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked") and not key.startswith(classifier)
    }


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


@pytest.fixture(scope="module")
def mobilenet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return plain_state(library_model("mobilenet_v2"), "mobilenet_v2")


def test_affine_learns_norms_biases_and_head_only(mobilenet: dict[str, Tensor]) -> None:
    model = build_classifier(Choices("mobilenet_v2", True, "affine"), seed=0, state=mobilenet)
    norms = {
        f"{name}.{kind}"
        for name, m in model.named_modules()
        if isinstance(m, FrozenStatisticsNorm)
        for kind in ("weight", "bias")
    }
    assert set(trainable_tensors(model)) == norms | {"head.weight", "head.bias"}
    assert count(model) == COUNTS["mobilenet_v2"][1]
    with_random_head(model)(images()).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(trainable_tensors(model))


def test_no_parameter_of_the_caller_is_shared(mobilenet: dict[str, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in mobilenet.items()}
    model = build_classifier(Choices("mobilenet_v2", True), seed=0, state=mobilenet)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(mobilenet[name], tensor) for name, tensor in before.items())


def test_weights_of_another_model_are_refused(mobilenet: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="resnet18: these weights are of another model"):
        build_classifier(Choices("resnet18", True), seed=0, state=mobilenet)


@pytest.mark.parametrize("pretrained", [True, False])
def test_weights_are_given_exactly_where_wanted(pretrained: bool, mobilenet: dict[str, Tensor]) -> None:
    with pytest.raises(StudyError, match=f"pretrained is {pretrained}"):
        build_classifier(Choices("mobilenet_v2", pretrained), seed=0, state=None if pretrained else mobilenet)


# --- normalisation layers --------------------------------------------------------------------------------------------


def test_frozen_norm_is_batch_norm_in_evaluation_with_its_names() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=1e-3)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    frozen = FrozenStatisticsNorm(norm).train()
    batch = torch.randn(4, 6, 5, 5)
    torch.testing.assert_close(frozen(batch), norm.eval()(batch))
    assert set(frozen.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    assert not list(frozen.buffers())
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})


@given(st.integers(1, 2048))
def test_groups_divide_the_channels(channels: int) -> None:
    norm = group_norm(nn.BatchNorm2d(channels, eps=0.5))
    size = channels // norm.num_groups
    assert norm.num_groups * size == channels
    assert norm.num_groups == 1 or (norm.num_groups <= 32 and size >= 4)
    larger = range(norm.num_groups + 1, 33)
    assert not any(channels % groups == 0 and channels // groups >= 4 for groups in larger)
    assert norm.eps == 0.5


# --- seeds, dropout, metadata ----------------------------------------------------------------------------------------


def test_same_seed_same_network_and_the_global_generator_is_untouched() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        trainable_tensors(build_classifier(Choices("squeezenet1_1", metadata=True), seed=s, state=None))
        for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    for name in ("trunk.features.0.weight", "metadata.0.weight"):
        assert not np.array_equal(first[name], other[name])


def test_pretrained_build_leaves_the_global_generator(mobilenet: dict[str, Tensor]) -> None:
    before = torch.get_rng_state()
    build_classifier(Choices("mobilenet_v2", True), seed=1, state=mobilenet)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("backbone", "asked", "wanted"), [("simple_cnn", 0.0, 0.4), ("simple_cnn", 0.6, 0.6)])
def test_dropout_is_at_least_the_architectures(backbone: str, asked: float, wanted: float) -> None:
    model = with_random_head(build_classifier(Choices(backbone, dropout=asked), seed=0, state=None))
    assert model.dropout.p == wanted
    torch.manual_seed(0)
    batch = images(1).expand(8, -1, -1, -1)
    assert len(model.train()(batch).unique()) > 1
    assert model.eval()(batch).std() < 1e-6


@pytest.mark.parametrize("size", [32, 64, 100, 224])
def test_simple_cnn_is_the_papers_at_every_size(size: int) -> None:
    model = build_classifier(Choices(), seed=0, state=None)
    layers = [m for m in model.trunk.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in layers] == [(3, 11, (4, 4))] + [
        (11, 11, (4, 4))
    ] * 4
    assert model.trunk(images(size=size)).shape == (2, 11)


def lesion(age: float | None, sex: str | None, site: str | None) -> LesionRecord:
    return LesionRecord(
        image="a.jpg",
        target=0,
        diagnosis=None,
        patient_id=None,
        lesion_id=None,
        dup_group=None,
        age=age,
        sex=sex,
        site=site,
        source="a",
    )


def test_metadata_encoding() -> None:
    known, unknown, strange = encode_metadata(
        [lesion(70, "female", SITES[1]), lesion(None, None, None), lesion(50, "male", "elsewhere")]
    )
    assert METADATA_FEATURES == len(known) == 6 + len(SITES)
    assert known.dtype == np.float32
    assert known[:5].tolist() == [1, 0, 0, 1, 0]
    assert unknown[:5].tolist() == [0, 1, 0, 0, 1]
    assert strange[:5].tolist() == [0, 0, 1, 0, 0]
    assert np.flatnonzero(known[5:]).tolist() == [1]
    assert np.flatnonzero(unknown[5:]).tolist() == np.flatnonzero(strange[5:]).tolist() == [len(SITES)]
    assert encode_metadata([]).shape == (0, METADATA_FEATURES)


def test_metadata_branch_reaches_the_logit_and_travels_with_the_head() -> None:
    model = with_random_head(build_classifier(Choices(train="head", metadata=True), seed=0, state=None)).eval()
    one, two = (torch.from_numpy(encode_metadata([lesion(age, "male", None)] * 2)) for age in (20, 80))
    assert not torch.allclose(model(images(), one), model(images(), two))
    names = set(trainable_tensors(model))
    assert names == {"head.weight", "head.bias"} | {
        f"metadata.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("branch", [True, False])
def test_metadata_is_given_exactly_where_there_is_a_branch(branch: bool) -> None:
    model = build_classifier(Choices(metadata=branch), seed=0, state=None)
    with pytest.raises(ValueError, match="only there"):
        model(images(), None if branch else torch.zeros(2, METADATA_FEATURES))


# --- tensors that travel ---------------------------------------------------------------------------------------------


def test_tensors_go_out_and_come_back_bit_for_bit() -> None:
    sender, receiver = (build_classifier(Choices(metadata=True), seed=s, state=None) for s in (1, 2))
    sender.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sent = trainable_tensors(sender)
    assert list(sent) == sorted(sent)
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in sent.values())
    load_trainable(receiver, sent)
    arrived = trainable_tensors(receiver)
    assert all(np.array_equal(arrived[name], sent[name]) for name in sent)
    sent["head.bias"][:] = 9
    assert sender.head.bias.item() == receiver.head.bias.item() == 0


def _without(tensors: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t: _without(t, "head.bias"), "lacks head.bias"),
        (lambda t: {**t, "head.more": t["head.bias"]}, "unknown head.more"),
        (lambda t: {**t, "head.bias": np.ones(2, np.float32)}, "shape"),
        (lambda t: {**t, "head.bias": np.ones(1, np.float64)}, "float64, not float32"),
        (lambda t: {**t, "head.bias": np.array([np.nan], np.float32)}, "not finite"),
        (lambda t: {**t, "head.bias": np.array([np.inf], np.float32)}, "not finite"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(spoil, reason: str) -> None:  # type: ignore[no-untyped-def]
    model = build_classifier(Choices(), seed=0, state=None)
    before = trainable_tensors(model)
    sent = spoil({name: tensor + 1 for name, tensor in before.items()})
    with pytest.raises(StudyError, match=reason):
        load_trainable(model, sent)
    assert all(np.array_equal(tensor, before[name]) for name, tensor in trainable_tensors(model).items())


def test_only_trainable_tensors_are_accepted() -> None:
    model = build_classifier(Choices(train="head"), seed=0, state=None)
    everything = {name: p.detach().numpy() for name, p in model.named_parameters()}
    with pytest.raises(StudyError, match="unknown trunk"):
        load_trainable(model, everything)
