"""Clipped sums of patients: exact for every family, and an error where they would not be."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from melfed.client.privacy import layer_rules as layers
from melfed.client.privacy.gradients import Clipping, IntArray, PrivateGradients
from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.errors import StudyError
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.backbones.spec import Trainable
from melfed.common.model.backbones.timm_models import build
from melfed.common.model.classifier import Classifier, build_classifier, build_trunk, set_trainable
from melfed.common.model.norms import FrozenStatisticsNorm, group_norm, replace_batch_norms
from melfed.common.study.protocol import ModelSpec
from tests.client.privacy.patient_loop import clipped_sums, error, length, randomise

PATIENTS = np.array([2, 0, 1, 2, 2, 0])
"""Patients of two, one and three images, which do not lie together."""


def a_classifier(backbone: str, part: Trainable, *, pretrained: bool = True, metadata: bool = False) -> Classifier:
    """Return a network of random values, in training mode, float64, without dropout; logits are of the order of 1."""
    with torch.device("meta"):
        trunk = build_trunk(backbone, pretrained=pretrained)
        if backbone.startswith("vgg"):
            # A hundred million weights fewer, of the same kind.
            trunk.classifier[0], trunk.classifier[3] = nn.Linear(25088, 24), nn.Linear(24, 4096)
        replace_batch_norms(trunk, FrozenStatisticsNorm if pretrained else group_norm)
        model = Classifier(backbone, trunk, metadata=metadata, dropout=0.0)
    model.to_empty(device="cpu").double().to(memory_format=torch.channels_last)
    randomise(model)
    with torch.no_grad():
        pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2), dtype=torch.double)
        model.head.weight /= model.trunk(pixels).square().mean().sqrt()
    set_trainable(model, part)
    return model.train()


def losses(model: Classifier, size: int = 40) -> Callable[[IntArray], Tensor]:
    """Return what maps numbers of images to their losses, in the network's own precision."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(len(PATIENTS), 3, size, size, generator=generator, dtype=torch.double)
    records = torch.randn(len(PATIENTS), METADATA_FEATURES, generator=generator, dtype=torch.double)
    targets = torch.tensor([0.0, 1, 0, 1, 1, 0], dtype=torch.double)

    def losses_of(images: IntArray) -> Tensor:
        kind = model.head.weight.dtype
        inputs = pixels[images].to(kind, memory_format=torch.channels_last)
        logits = model(inputs, records[images].to(kind) if model.metadata is not None else None)
        return F.binary_cross_entropy_with_logits(logits, targets[images].to(kind), reduction="none")

    return losses_of


CLIPPING = Clipping(1.0)


def assert_exact(model: Classifier, clipping: Clipping = CLIPPING, size: int = 40) -> None:
    """Assert float64 sums to 1e-9 of the loop's."""
    losses_of = losses(model, size)
    expected, norms = clipped_sums(model, losses_of, PATIENTS, clipping)
    with PrivateGradients(model, clipping) as private:
        found = private.add(lambda: losses_of(np.arange(len(PATIENTS))), PATIENTS)
    assert error(private.sums, expected) <= 1e-9
    torch.testing.assert_close(found, norms, rtol=1e-9, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_family(backbone: str) -> None:
    assert_exact(a_classifier(backbone, "full"))


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "densenet121", "resnet18", "efficientnet_lite0", "simple_cnn"])
def test_from_scratch(backbone: str) -> None:
    assert_exact(a_classifier(backbone, "full", pretrained=False))


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("part", ["head", "affine", "last_block", "full"])
def test_every_part(part: Trainable, metadata: bool, pretrained: bool) -> None:
    assert_exact(a_classifier("shufflenet_v2_x1_0", part, pretrained=pretrained, metadata=metadata))


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "vgg11", "efficientnet_lite0"])
@pytest.mark.parametrize("part", ["affine", "last_block"])
def test_parts_of_other_networks(backbone: str, part: Trainable) -> None:
    assert_exact(a_classifier(backbone, part))


@pytest.mark.parametrize(
    "backbone", ["timm/test_vit.r160_in1k", "timm/test_vit3.r160_in1k", "timm/test_convnext.r160_in1k"]
)
@pytest.mark.parametrize("part", ["head", "affine", "last_block"])
def test_models_of_timm(backbone: str, part: Trainable) -> None:
    """Attention, LayerNorm of tokens and of maps, LayerScale. Parameters of a block itself are not known."""
    model = build_classifier(ModelSpec(backbone=backbone, train=part), seed=0, state=dict(build(backbone).state_dict()))
    model = model.double()
    randomise(model)
    unknown = {"convnext": r"gamma in trunk\.stages\..* \(ConvNeXtBlock\)", "vit3": r"latent in trunk\.attn_pool"}
    words = next((words for name, words in unknown.items() if name in backbone and part == "last_block"), None)
    if words is not None:
        with pytest.raises(StudyError, match=f"gradients of {words}"):
            PrivateGradients(model, CLIPPING)
        return
    assert_exact(model.train(), size=64)


def test_a_class_token_that_would_learn_is_refused_in_one_line() -> None:
    vit = "timm/test_vit.r160_in1k"
    model = build_classifier(ModelSpec(backbone=vit), seed=0, state=dict(build(vit).state_dict()))
    words = "does not know a patient's gradients of cls_token, pos_embed in trunk"
    with pytest.raises(StudyError, match=words) as caught:
        PrivateGradients(model, CLIPPING)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("clipping", [Clipping(1e3), Clipping(1e-3), Clipping(0.5, normalised=True)])
def test_clipping(clipping: Clipping) -> None:
    assert_exact(a_classifier("squeezenet1_1", "full"), clipping)


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "densenet121", "resnet18", "efficientnet_b0", "squeezenet1_1"])
def test_single_precision(backbone: str) -> None:
    """Against a loop in single precision over the same forward pass: in another batch rounding differs, and a unit near
    its kink then falls to the other side, which changes plain autograd's gradients by 2e-3 in DenseNet121."""
    model = a_classifier(backbone, "full").float()
    everyone = losses(model)(np.arange(len(PATIENTS)))
    expected, norms = clipped_sums(model, lambda images: everyone[images], PATIENTS, Clipping(1.0))
    losses_of = losses(model)
    with PrivateGradients(model, Clipping(1.0)) as private:
        found = private.add(lambda: losses_of(np.arange(len(PATIENTS))), PATIENTS)
    assert error(private.sums, expected) <= 1e-4
    torch.testing.assert_close(found, norms.double(), rtol=1e-4, atol=0)


def opposed(model: Classifier, pixels: Tensor) -> Tensor:
    """Losses of two images with opposite targets."""
    return F.softplus(model(pixels) * torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "vgg11", "squeezenet1_1", "mobilenet_v2"])
@pytest.mark.parametrize("bias", [1e3, 1e6, 1e10, 1e15, 1e18])
@pytest.mark.parametrize("where", ["last", "all", "all, and the trunk learns"])
def test_no_weights_lead_a_patient_past_the_bound(backbone: str, bias: float, where: str) -> None:
    """Whoever makes the weights can have the terms of a gradient nearly cancel, so that a norm in single precision is
    lost in rounding: two images with nearly the same large features, and opposite targets."""
    model = a_classifier(backbone, "full").float()
    biases = [value for name, value in model.trunk.named_parameters() if name.endswith("bias")]
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        for value in biases[-1:] if where == "last" else biases:
            value.fill_(bias)
        if where.endswith("learns"):
            # Equal features give a logit of 0, and gradients that differ only by their sign.
            model.head.weight[0, ::2], model.head.weight[0, 1::2] = 1e-3, -1e-3
    generator = torch.Generator().manual_seed(3)
    for size in (40, 64):
        pixels = torch.randn(2, 3, size, size, generator=generator)
        with PrivateGradients(model, Clipping(0.01)) as private:
            norm = private.add(partial(opposed, model, pixels), np.zeros(2, int))
            contribution = math.sqrt(sum(float(value.double().square().sum()) for value in private.sums.values()))
        assert contribution <= 0.01 * (1 + 1e-3), (contribution, norm)


def test_autocast() -> None:
    model = a_classifier("squeezenet1_1", "full").float()
    losses_of, everyone = losses(model), np.arange(len(PATIENTS))

    def half() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return losses_of(everyone).float()

    with PrivateGradients(model, Clipping(1.0)) as private:
        expected_norms = private.add(lambda: losses_of(everyone), PATIENTS)
        expected = {name: value.clone() for name, value in private.sums.items()}
        private.reset()
        norms = private.add(half, PATIENTS)
        assert error(private.sums, expected) < 0.1
        torch.testing.assert_close(norms, expected_norms, rtol=0.05, atol=0)
        inside = {name: value.clone() for name, value in private.sums.items()}
        assert all(value.dtype == torch.float64 for value in inside.values())
        private.reset()
        # Autocast around everything must not reach the norms and sums.
        with torch.autocast("cpu", torch.bfloat16):
            private.add(half, PATIENTS)
        assert error(private.sums, inside) < 1e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18", "densenet121"])
def test_on_a_gpu(backbone: str) -> None:
    model = a_classifier(backbone, "full")
    losses_of, everyone = losses(model), np.arange(len(PATIENTS))
    expected, _ = clipped_sums(model, losses_of, PATIENTS, Clipping(1.0))
    model.cuda()
    with PrivateGradients(model, Clipping(1.0)) as private:
        private.add(lambda: losses_of(everyone), torch.tensor(PATIENTS, device="cuda"))
        assert error({name: value.cpu() for name, value in private.sums.items()}, expected) <= 1e-9
        private.reset()
        with torch.autocast("cuda"):
            norms = private.add(lambda: losses_of(everyone), PATIENTS)
        assert norms.is_cuda


def test_sums_add_up_over_calls_and_are_bounded() -> None:
    """A call of one patient each adds at most C; the order of patients does not matter; `reset` forgets."""
    model = a_classifier("shufflenet_v2_x1_0", "full")
    losses_of = losses(model)
    for clipping in (Clipping(0.5), Clipping(0.5, normalised=True)):
        with PrivateGradients(model, clipping) as private:
            norms = private.add(lambda: losses_of(np.arange(len(PATIENTS))), PATIENTS)
            together = {name: value.clone() for name, value in private.sums.items()}
            private.reset()
            assert not any(value.any() for value in private.sums.values())
            total = {name: torch.zeros_like(value) for name, value in together.items()}
            for patient in (1, 2, 0):
                images = np.flatnonzero(patient == PATIENTS)
                (norm,) = private.add(lambda images=images: losses_of(images), np.zeros(len(images), int))
                torch.testing.assert_close(norm, norms[patient], rtol=1e-12, atol=0)
                assert float(length(private.sums)) <= 0.5 * (1 + 1e-12)
                assert (float(length(private.sums)) >= 0.5 * (1 - 1e-12)) == (norm > 0.5 and not clipping.normalised)
                total = {name: value + private.sums[name] for name, value in total.items()}
                private.reset()
            assert error(total, together) <= 1e-12


def a_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))


PIXELS = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_step_without_patients() -> None:
    with PrivateGradients(a_net(), Clipping(1.0)) as private:
        assert private.add(lambda: pytest.fail("no image, no pass"), np.zeros(0, int)).shape == (0,)


def test_numbers_without_images_have_norm_zero() -> None:
    model = a_net()
    with PrivateGradients(model, Clipping(1.0)) as private:
        norms = private.add(lambda: model(PIXELS), np.array([1, 4, 4, 1, 6]))
    assert norms.gt(0).tolist() == [False, True, False, False, True, False, True]


def test_weights_of_images() -> None:
    model = a_net().double()
    pixels, weights = PIXELS.double(), torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0])
    with PrivateGradients(model, Clipping(1e6)) as private:
        private.add(lambda: model(pixels), np.array([0, 0, 1, 2, 1]), weights)
    (model(pixels) * weights).sum().backward()
    assert error(private.sums, {name: value.grad for name, value in model.named_parameters()}) <= 1e-12


def test_the_model_is_left_as_it_was() -> None:
    model = a_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    private = PrivateGradients(model, Clipping(1.0))
    private.add(lambda: model(PIXELS), np.arange(5))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert model(PIXELS).requires_grad
    private.close()
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_images_that_ask_for_gradients_change_nothing() -> None:
    model = a_net()
    with PrivateGradients(model, Clipping(1.0)) as private:
        private.add(lambda: model(PIXELS), np.arange(5))
        expected = {name: value.clone() for name, value in private.sums.items()}
        private.reset()
        private.add(lambda: model(PIXELS.clone().requires_grad_()), np.arange(5))
        assert error(private.sums, expected) < 1e-6


def test_a_layer_that_the_losses_ignore_has_zeros() -> None:
    class Ignored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.ignored = a_net(), nn.Linear(36, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.ignored(x.flatten(1))
            return self.net(x)

    model = Ignored()
    with PrivateGradients(model, Clipping(1.0)) as private:
        private.add(lambda: model(PIXELS), np.arange(5))
    assert not private.sums["ignored.weight"].any()
    assert private.sums["net.3.weight"].any()


class Misused(nn.Module):
    """A network of a convolution and a linear layer that does one forbidden thing."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.how == "overwritten":
            y = self.second(x)
            x.mul_(2)
            x = x + y
        elif self.how == "without gradients":
            with torch.no_grad():
                x = x + self.second(x)
        elif self.how == "batch dimension":
            x = self.second(x.reshape(-1, 4, 4, 2)).reshape(x.shape)
        elif self.how != "idle":
            x = self.second(x)
        if self.how == "twice":
            x = self.second(x)
        elif self.how == "functional":
            x = F.conv2d(x, self.second.weight)
        return self.head(x.flatten(1)).squeeze(1)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("twice", "second learns, but ran twice"),
        ("idle", "second learns, but took no part"),
        ("functional", "second.weight learns, but is used 2 times"),
        ("overwritten", "second learns, but its input was overwritten"),
        ("without gradients", "second learns, but ran without gradients"),
        ("batch dimension", r"second saw a tensor of shape \(10, 4, 4, 2\) where 5 images"),
    ],
)
def test_misuse_is_an_error_and_adds_nothing(how: str, message: str) -> None:
    model = Misused(how)
    with PrivateGradients(model, Clipping(1.0)) as private:
        with pytest.raises(StudyError, match=message):
            private.add(lambda: model(PIXELS), np.arange(5))
        assert not any(value.any() for value in private.sums.values())
        assert all(parameter.requires_grad for parameter in model.parameters())
        model.how = ""
        private.add(lambda: model(PIXELS), np.arange(5))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).requires_grad_(False), r"1 \(BatchNorm2d\) mixes"),
        (nn.Sequential(nn.Linear(1, 1)).requires_grad_(False), "nothing learns"),
        (nn.Sequential(nn.Bilinear(1, 1, 1)), r"gradients of bias, weight in 0 \(Bilinear\)"),
        (nn.Sequential(nn.PReLU()), r"gradients of weight in 0 \(PReLU\)"),
        (nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))), "weight_g, weight_v"),
        (nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))), "ParametrizedLinear"),
        (nn.Sequential(nn.Conv1d(1, 1, 1)), "Conv1d"),
        (nn.Sequential(FrozenStatisticsNorm(nn.BatchNorm2d(2)).requires_grad_(True)), "running_mean"),
        (tied(), "1.weight is also a parameter of another layer"),
    ],
)
def test_models_that_cannot_be_trained_privately(model: nn.Module, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        PrivateGradients(model, Clipping(1.0))
    assert not any(layer._forward_hooks for layer in model.modules())


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1"])
@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_counts_as_zero(backbone: str, bad: float) -> None:
    """In all forms of all layers: 0 times it would be no number."""
    model = a_classifier(backbone, "full").float()
    pixels, patients = torch.randn(6, 3, 64, 64), np.array([0, 0, 1, 1, 2, 2])
    scale = torch.tensor([1.0, 1.0, 1.0, bad, 1.0, 1.0])

    def sums(images: list[int], who: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        with PrivateGradients(model, Clipping(1.0)) as private:
            norms = private.add(lambda: model(pixels[images]) * scale[images], who)
            return private.sums, norms

    found, norms = sums(list(range(6)), patients)
    expected, others = sums([0, 1, 4, 5], np.array([0, 0, 1, 1]))
    assert norms.isinf().tolist() == [False, True, False]
    torch.testing.assert_close(norms[[0, 2]], others, rtol=1e-4, atol=0)
    assert error(found, expected) <= 1e-4


def test_convolutions_are_not_shortened_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = layers._Convolution.__call__

    def look(*arguments: object) -> Iterator[layers.Share]:
        seen.append(torch.backends.cudnn.allow_tf32)
        return original(*arguments)

    monkeypatch.setattr(layers._Convolution, "__call__", look)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model = a_net()
    with PrivateGradients(model, Clipping(1.0)) as private:
        private.add(lambda: model(PIXELS), np.arange(5))
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.allow_tf32


def test_a_parameter_frozen_meanwhile_is_an_error() -> None:
    model = a_net()
    with PrivateGradients(model, Clipping(1.0)) as private:
        model[0].weight.requires_grad_(False)
        with pytest.raises(StudyError, match="frozen after"):
            private.add(lambda: model(PIXELS), np.arange(5))


def test_losses_must_be_one_an_image() -> None:
    model = a_net()
    with PrivateGradients(model, Clipping(1.0)) as private, pytest.raises(ValueError, match="losses for patients"):
        private.add(lambda: model(PIXELS).mean(), np.arange(5))


def opacus_nets() -> list[nn.Module]:
    """Networks that Opacus can run: no operation in place."""
    squeezenet = a_classifier("squeezenet1_1", "full").trunk
    for layer in squeezenet.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    norm = FrozenStatisticsNorm(nn.BatchNorm2d(6))
    frozen = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), norm, nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Flatten())
    scratch = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2, stride=3), nn.GroupNorm(2, 8), nn.Flatten(2), nn.LayerNorm(256), nn.Linear(256, 9)
    )
    for net in (frozen, scratch):
        randomise(net)
    nets = [squeezenet, a_classifier("simple_cnn", "full").trunk, frozen.double(), scratch.double()]
    return [net.to(memory_format=torch.contiguous_format) for net in nets]


@pytest.mark.parametrize("which", range(4))
def test_sums_are_those_of_opacus(which: int) -> None:
    """Its clipping adds 1e-6 to the norm, so the two agree to that."""
    from opacus import GradSampleModule
    from opacus.grad_sample import register_grad_sampler
    from opacus.optimizers import DPOptimizer

    @register_grad_sampler(FrozenStatisticsNorm)
    def frozen_norm(layer: FrozenStatisticsNorm, inputs: list[Tensor], g: Tensor) -> dict[nn.Parameter, Tensor]:
        mean, variance = (value.view(1, -1, 1, 1) for value in (layer.running_mean, layer.running_var))
        normal = (inputs[0] - mean) / torch.sqrt(variance + layer.eps)
        return {layer.weight: (g * normal).sum((2, 3)), layer.bias: g.sum((2, 3))}

    model = opacus_nets()[which]
    pixels = torch.randn(4, 3, 48, 48, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    losses_of = lambda net: net(pixels).flatten(1).square().mean(1)  # noqa: E731
    with PrivateGradients(model, Clipping(1.0)) as private:
        norms = private.add(lambda: losses_of(model), np.arange(4))
    clipping = float(norms.median())
    with PrivateGradients(model, Clipping(clipping)) as private:
        private.add(lambda: losses_of(model), np.arange(4))
    hooked = GradSampleModule(model, loss_reduction="sum", strict=False)
    learning = [value for value in hooked.parameters() if value.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.SGD(learning, 1.0), noise_multiplier=0.0, max_grad_norm=clipping, expected_batch_size=4
    )
    losses_of(hooked).sum().backward()
    optimizer.clip_and_accumulate()
    expected = {name: value.summed_grad for name, value in model.named_parameters() if value.requires_grad}
    assert error(private.sums, expected) <= 1e-5 / clipping
