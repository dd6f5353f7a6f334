"""A classifier in two parts computes, and learns, what it does as a whole."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.errors import StudyError
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.backbones.spec import Trainable
from melfed.common.model.classifier import Classifier, build_classifier, build_trunk, set_trainable
from melfed.common.model.frozen_prefix import AFTER_FEATURES, Split, split
from tests.common.networks import Choices, images, narrow_vgg, with_random_head


@dataclass(frozen=True)
class NeckChoices(Choices):
    neck: int | None = None


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest) -> Classifier:
    """Every backbone; GoogLeNet with the conversion of its input that its published weights need."""
    with narrow_vgg():
        model = with_random_head(build_classifier(NeckChoices(request.param, metadata=True), seed=1, state=None))
    if request.param == "googlenet":
        model.trunk.transform_input = True
    model.dropout.p = 0.0
    return model


def batch(n: int = 2) -> Tensor:
    return images(n).contiguous(memory_format=torch.channels_last)


def encoded(n: int = 2) -> Tensor:
    return torch.randn(n, METADATA_FEATURES, generator=torch.Generator().manual_seed(2))


def halves(model: Classifier) -> Split:
    parts = split(model)
    assert parts is not None
    return parts


def gradients(model: Classifier, logits: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (logits * torch.arange(1, len(logits) + 1)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("part", "memory"),
    [("head", torch.channels_last), ("last_block", torch.channels_last), ("last_block", torch.contiguous_format)],
)
def test_the_parts_compute_and_learn_what_the_whole_does(
    model: Classifier, part: Trainable, memory: torch.memory_format
) -> None:
    model.to(memory_format=memory)  # type: ignore[call-overload]
    set_trainable(model, part)
    parts = halves(model.train())
    whole = model(batch(), encoded())
    assert whole.std() > 1e-3
    activation = parts.prefix(batch())
    assert not activation.requires_grad
    # As a cache would give it back: a copy, in the plain order of memory.
    stored = torch.from_numpy(activation.numpy().copy(order="C"))
    logits = parts.tail(stored, encoded())
    assert torch.equal(logits, whole)
    assert torch.equal(stored, activation), "the tail changes what it is given"
    expected, found = gradients(model, whole), gradients(model, logits)
    assert expected.keys() == {name for name, p in model.named_parameters() if p.requires_grad} == found.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("part", ["head", "last_block"])
def test_the_tail_has_the_classifiers_own_parameters_and_modules(model: Classifier, part: Trainable) -> None:
    set_trainable(model, part)
    parts = halves(model)
    own, of_tail = dict(model.named_parameters()), dict(parts.tail.named_parameters())
    assert all(own[name] is parameter for name, parameter in of_tail.items())
    assert {name for name, p in own.items() if p.requires_grad} <= of_tail.keys()
    assert parts.frozen.keys() | of_tail.keys() == own.keys(), "every parameter is in one of the parts"
    assert not parts.frozen.keys() & of_tail.keys()
    assert not any(tensor.requires_grad for tensor in parts.frozen.values())
    # Private gradients hook the modules of the classifier that learn.
    learning = {name: m for name, m in model.named_modules() if any(p.requires_grad for p in m.parameters(False))}
    fired: list[str] = []
    hooks = [m.register_forward_hook(lambda *_, n=name: fired.append(n)) for name, m in learning.items()]
    parts.tail(parts.prefix(batch()), encoded())
    for hook in hooks:
        hook.remove()
    assert sorted(fired) == sorted(learning)


def test_last_block_is_cut_before_its_first_module(model: Classifier) -> None:
    set_trainable(model, "last_block")
    parts = halves(model)
    first = parts.name.removeprefix("trunk.")
    assert first in BACKBONES[model.backbone].last_block
    seen: list[Tensor] = []
    hook = model.trunk.get_submodule(first).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(batch(), encoded())
    hook.remove()
    assert torch.equal(seen[0], parts.prefix(batch()))


def small(part: Trainable = "last_block", *, backbone: str = "simple_cnn") -> Classifier:
    return with_random_head(build_classifier(NeckChoices(backbone, train=part), seed=1, state=None)).eval()


def test_head_is_cut_after_the_features() -> None:
    model = small("head")
    assert halves(model).name == "head"
    assert torch.equal(halves(model).prefix(batch()), model.trunk(batch()))


@pytest.mark.parametrize("part", ["affine", "full"])
def test_without_a_frozen_prefix_there_is_no_split(part: Trainable) -> None:
    assert split(small(part)) is None


def test_the_split_follows_what_learns_and_what_changes() -> None:
    model = small("head")
    assert halves(model).name == "head"
    set_trainable(model, "last_block")
    parts = halves(model)
    assert parts.name == "trunk.features.12"
    assert halves(model) is parts
    before = parts.prefix(batch())
    with torch.no_grad():
        model.trunk.features[0].weight.mul_(2)
        model.head.bias.fill_(3)
    assert not torch.equal(parts.prefix(batch()), before)
    assert torch.equal(parts.tail(parts.prefix(batch())), model(batch()))
    model.trunk.features[1] = nn.Tanh()
    assert torch.equal(halves(model).tail(halves(model).prefix(batch())), model(batch()))


def test_the_classifier_is_left_as_it_was() -> None:
    model = small("last_block", backbone="mobilenet_v2").train()
    before = {name: id(m) for name, m in model.named_modules()}
    state = torch.get_rng_state()
    parts = halves(model)
    parts.tail(parts.prefix(batch()))
    assert {name: id(m) for name, m in model.named_modules()} == before
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_statistics_belong_to_the_prefix() -> None:
    weights = build_trunk("resnet18", pretrained=True).state_dict()
    state = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    model = build_classifier(NeckChoices("resnet18", True, "last_block"), seed=0, state=state)
    frozen = halves(model).frozen
    assert "trunk.bn1.running_mean" in frozen
    assert not any(name.startswith("trunk.layer4.") for name in frozen)
    set_trainable(model, "head")
    assert "trunk.layer4.1.bn2.running_var" in halves(model).frozen


def with_neck(part: Trainable = "head") -> Classifier:
    model = with_random_head(build_classifier(NeckChoices("mobilenet_v2", train=part, neck=5), seed=1, state=None))
    assert model.neck is not None
    nn.init.normal_(model.neck.projection, generator=torch.Generator().manual_seed(7))
    return model.eval()


def test_a_neck_belongs_to_the_prefix() -> None:
    model = with_neck()
    parts = halves(model)
    whitened = parts.prefix(batch())
    assert whitened.shape == (2, 5)
    assert whitened.std() > 1e-3
    assert torch.equal(parts.tail(whitened), model(batch()))
    assert {"neck.mean", "neck.projection", "trunk.features.18.1.weight"} <= parts.frozen.keys()


def test_a_neck_sees_more_than_the_last_block_is_given() -> None:
    assert split(with_neck("last_block")) is None


class Skips(nn.Module):
    """A trunk whose end looks past its last block, at what the prefix computed on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict({"0": nn.Conv2d(3, 11, 3), "12": nn.Conv2d(11, 11, 3)})

    def forward(self, x: Tensor) -> Tensor:
        early = self.features["0"](x)
        return self.features["12"](early).mean((2, 3)) + early.mean((2, 3)) * x.mean()


class Backwards(Skips):
    """A trunk that never runs its last block."""

    def forward(self, x: Tensor) -> Tensor:
        return self.features["0"](x).mean((2, 3))


@pytest.mark.parametrize(("trunk", "reason"), [(Skips, "cannot be cut at trunk.features.12"), (Backwards, "not run")])
def test_a_network_that_cannot_be_cut_is_refused(trunk: Callable[[], nn.Module], reason: str) -> None:
    model = Classifier("simple_cnn", trunk(), metadata=False, dropout=0.0)  # with the head at zero, as before training
    set_trainable(model, "last_block")
    with pytest.raises(StudyError, match=reason):
        split(model)


def test_all_children_after_the_features_are_known() -> None:
    """A new child of the classifier belongs to the prefix of `head`, unless it is named in AFTER_FEATURES."""
    model = build_classifier(NeckChoices(metadata=True), seed=0, state=None)
    assert [name for name, _ in model.named_children()] == ["trunk", *AFTER_FEATURES]
