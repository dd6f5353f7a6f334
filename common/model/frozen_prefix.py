"""A classifier in two parts: the frozen prefix, whose outputs can be kept, and the tail, which learns.

The tail is built from the classifier's own modules, so its parameters are the classifier's, under the same names, and
hooks on the modules that learn fire whichever way the network is run. Nothing is known here of any family of networks:
the first module of the last block is watched for in one run, and what had finished by then is the prefix. That the two
parts together compute what the whole computes is tried out before they are handed over.
"""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor, nn

from melfed.common.errors import StudyError
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier

AFTER_FEATURES: Final = ("metadata", "dropout", "head")
"""Children of a classifier that come after the image features; all others make them."""

# Small enough to be quick, large enough that the last stage of every backbone still has several positions.
_PROBE_SIZE: Final = 64


@dataclass(frozen=True)
class Split:
    """A classifier in two parts.

    Attributes:
        name: where it is cut: `head`, or the first module of the tail by its name in the classifier.
        prefix: maps images, normalised and in channels-last format, (n, 3, height, width), to activations (n, ...);
            without gradients.
        tail: maps activations and encoded metadata (or None) to logits (n,), as `Classifier.forward` does from images.
        frozen: all parameters and buffers of the prefix, by their names in the classifier.
    """

    name: str
    prefix: Callable[[Tensor], Tensor]
    tail: Classifier
    frozen: Mapping[str, Tensor]


def split(model: Classifier) -> Split | None:
    """Cut a classifier at the end of its frozen prefix, according to which of its parameters learn.

    Where only the head and the metadata branch learn, the prefix is all that makes the image features. Where the last
    block (`BackboneSpec.last_block`) learns too, it is what runs before that block.

    Args:
        model: must compute the same in training and evaluation up to the cut, as every backbone does.

    Returns:
        The two parts, which see every later change of the model's values. None where anything before the last block
        learns, since no prefix worth keeping is frozen then, where the last block learns below a neck, which looks
        at what comes before it, and where it learns in a model of timm: what many of them do to activations is in no
        module that could be left out.

    Raises:
        StudyError: the two parts would not compute what the classifier does.
    """
    learning = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    form = tuple((p.device, p.dtype, p.stride()) for p in model.parameters())
    return _split(model, frozenset(model.modules()), form, learning)


# One round asks several times for the same split; modules may have been replaced, or moved, in the meantime.
@functools.lru_cache(maxsize=1)
def _split(
    model: Classifier, _modules: frozenset[nn.Module], _form: tuple[object, ...], learning: frozenset[str]
) -> Split | None:
    of_features = {name for name in learning if name.partition(".")[0] not in AFTER_FEATURES}
    block = tuple(f"trunk.{name}." for name in backbone_spec(model.backbone).last_block)
    if not of_features:
        parts = _before_head(model)
    elif (
        model.neck is None and backbone_spec(model.backbone).cut and all(name.startswith(block) for name in of_features)
    ):
        parts = _before_block(model)
    else:
        return None
    _require_same(model, parts)
    return parts


def _before_head(model: Classifier) -> Split:
    """Cut between the image features and the head."""
    parts = {child for name, child in model.named_children() if name not in AFTER_FEATURES}
    tail = copy.copy(model)
    tail.__class__ = _FromFeatures
    tail._modules = {name: child for name, child in model._modules.items() if name in AFTER_FEATURES}

    @torch.no_grad()
    def prefix(images: Tensor) -> Tensor:
        return model.features(images)

    return Split("head", prefix, tail, _tensors_of(model, parts))


def _before_block(model: Classifier) -> Split:
    """Cut before the first module of the last block that runs."""
    block = {model.get_submodule(f"trunk.{name}"): name for name in backbone_spec(model.backbone).last_block}
    stops = {module: _Stop(name) for module, name in block.items()}
    upper = _twin(model, stops)

    @torch.no_grad()
    def prefix(images: Tensor) -> Tensor:
        return _run_to_stop(upper, images).activation

    finished, reached = _watch(upper)
    channels_last = reached.activation.is_contiguous(memory_format=torch.channels_last)
    layout = _Layout(torch.channels_last if channels_last else torch.contiguous_format)
    tail = _twin(model, dict.fromkeys(finished, layout))
    _switch_off_input_transform(tail.get_submodule("trunk"))
    return Split(f"trunk.{reached.block}", prefix, tail, _tensors_of(model, finished))


class _FromFeatures(Classifier):
    """A classifier that is given image features."""

    def features(self, images: Tensor) -> Tensor:
        """Return what is given, shape (n, features)."""
        return images


class _ReachedError(Exception):
    """The end of the prefix, with what arrives there."""

    def __init__(self, block: str, activation: Tensor) -> None:
        super().__init__(block)
        self.block, self.activation = block, activation


class _Stop(nn.Module):
    """Stands for a module of the last block, and ends the run."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Hand over the input, shape (n, ...), by an exception."""
        raise _ReachedError(self.block, x)


class _Layout(nn.Module):
    """Stands for a module of the prefix: passes activations on, in the memory format that the prefix gives them.

    Which kernel a convolution runs depends on it, and the last digits on the kernel.
    """

    def __init__(self, memory_format: torch.memory_format) -> None:
        super().__init__()
        self.memory_format = memory_format

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, ...) unchanged but for the order in memory."""
        return x.contiguous(memory_format=self.memory_format)


Module = TypeVar("Module", bound=nn.Module)


def _twin(module: Module, replacements: Mapping[nn.Module, nn.Module]) -> Module:
    """Return a module of the same kind with some modules inside replaced; what holds none of these is shared."""
    children: dict[str, nn.Module | None] = {}
    for name, child in module._modules.items():
        children[name] = child if child is None else replacements.get(child) or _twin(child, replacements)
    if all(child is module._modules[name] for name, child in children.items()):
        return module
    twin = copy.copy(module)  # shares the dictionaries of parameters, buffers and hooks
    twin._modules = children
    return twin


def _run_to_stop(upper: Classifier, images: Tensor) -> _ReachedError:
    try:
        upper.features(images)
    except _ReachedError as reached:
        return reached
    raise StudyError("the last block of the network did not run; train the head alone (model.train: head)")


def _watch(upper: Classifier) -> tuple[set[nn.Module], _ReachedError]:
    """Return the modules that have finished when the last block begins, and what arrives there."""
    finished: set[nn.Module] = set()

    def note(module: nn.Module, _arguments: object, _output: object) -> None:
        finished.add(module)

    hooks = [module.register_forward_hook(note) for module in upper.modules()]
    try:
        with torch.no_grad():
            return finished, _run_to_stop(upper, _probe(upper))
    finally:
        for hook in hooks:
            hook.remove()


def _switch_off_input_transform(trunk: nn.Module) -> None:
    """Keep a network that renormalises its input (GoogLeNet) from doing so to activations."""
    if hasattr(trunk, "transform_input"):
        trunk.transform_input = False  # type: ignore[assignment]


def _tensors_of(model: Classifier, parts: set[nn.Module]) -> dict[str, Tensor]:
    """Return all parameters and buffers inside some modules, by their names in the classifier."""
    return {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        if module in parts
        for key, value in (*module.named_parameters(), *module.named_buffers())
    }


def _probe(model: Classifier) -> Tensor:
    """Return random images, the same every time, as a network of this type and place takes them."""
    weight, size = model.head.weight, backbone_spec(model.backbone).size or _PROBE_SIZE
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last)


def _require_same(model: Classifier, parts: Split) -> None:
    """Raise StudyError unless the parts give the image features of the whole, to the last bit.

    The features, and not the logits: an untrained head makes all logits zero.
    """
    images = _probe(model)
    with torch.no_grad():
        whole, halves = model.features(images), parts.tail.features(parts.prefix(images))
    if not torch.allclose(whole, halves, rtol=0, atol=0, equal_nan=True):
        raise StudyError(
            f"model.backbone: {model.backbone} cannot be cut at {parts.name} to keep the outputs of what is frozen; "
            "train another part of it (model.train)"
        )
