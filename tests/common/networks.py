"""Networks that several tests build: the library's own models, and small helpers around the classifier."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from unittest import mock

import timm
import torch
import torchvision
from torch import Tensor, nn

from melfed.common.model.backbones import BACKBONES
from melfed.common.model.backbones.spec import Trainable
from melfed.common.model.classifier import Classifier


@dataclass(frozen=True)
class Choices:
    """The choices of a study's model section."""

    backbone: str = "simple_cnn"
    pretrained: bool = False
    train: Trainable = "full"
    metadata: bool = False
    dropout_rate: float = 0.0
    neck: int | None = None


def images(n: int = 2, size: int = 64) -> Tensor:
    """Normalised images, the same every time."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(5))


VGG = ("vgg11", "vgg16")
WIDE, NARROW = 4096, 24


class _NarrowLinear(nn.Linear):
    """A layer of VGG's classifier, with few values between the two wide ones."""

    def __init__(self, inputs: int, outputs: int) -> None:
        if outputs == WIDE:
            inputs, outputs = (NARROW, WIDE) if inputs == WIDE else (inputs, NARROW)
        super().__init__(inputs, outputs)


@contextlib.contextmanager
def narrow_vgg() -> Iterator[None]:
    """Let torchvision build VGG with 119 million parameters fewer, of the same kind, which take seconds to copy."""

    def narrow(name: str, **arguments: object) -> nn.Module:
        with mock.patch.object(nn, "Linear", _NarrowLinear):
            return torchvision.models.get_model(name, **arguments)

    with contextlib.ExitStack() as stack:
        for name in VGG:
            stack.enter_context(mock.patch.object(torchvision.models, name, partial(narrow, name)))
        yield


def with_random_head(model: Classifier) -> Classifier:
    """The head starts at zero; a random one lets the features through to the logits."""
    nn.init.normal_(model.head.weight, std=0.1, generator=torch.Generator().manual_seed(6))
    return model


def count(model: Classifier) -> int:
    """The number of values that learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def library_model(name: str) -> nn.Module:
    """The library's own model with its ImageNet classifier, and statistics as if it had been trained."""
    generator = torch.Generator().manual_seed(3)
    if name.startswith("efficientnet_lite"):
        model = timm.create_model(f"tf_{name}")
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


def plain_state(model: nn.Module, name: str) -> dict[str, Tensor]:
    """The weights of a library's model, as load_weights gives them."""
    classifier = f"{BACKBONES[name].classifier}."
    return {
        key: value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked") and not key.startswith(classifier)
    }
