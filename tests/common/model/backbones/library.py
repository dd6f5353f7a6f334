"""The library's own model of a backbone, without memory for its values, and what every entry promises of it."""

from importlib import import_module

import torch
from torch import nn

from melfed.common.model.backbones import BACKBONES


def model_of(name: str) -> nn.Module:
    """The model that the entry's constructor builds, on the device `meta`."""
    spec = BACKBONES[name]
    module, _, function = spec.constructor.partition(":")
    with torch.device("meta"):
        model: nn.Module = getattr(import_module(module), function)(**spec.arguments)
    return model


def check_entry(name: str, parameters: int) -> None:
    """Check an entry against the library's model.

    Args:
        name: of the backbone.
        parameters: of the whole model with its ImageNet classifier, as published.
    """
    spec, model = BACKBONES[name], model_of(name)
    names = [key for key, _ in model.named_parameters()]
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert spec.classifier is not None
    last = [m for m in model.get_submodule(spec.classifier).modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    assert last.weight.shape[:2] == (1000, spec.features)
    # The last block is the end of the trunk: behind its first parameter comes nothing but itself and the classifier.
    block = [key for key in names if key.startswith(tuple(f"{part}." for part in spec.last_block))]
    top = spec.classifier.partition(".")[0]
    trunk = [key for key in names if not key.startswith(f"{top}.") or key in block]
    assert trunk[len(trunk) - len(block) :] == block
    assert 0 < len(block) < len(trunk)
    for part in spec.last_block:
        model.get_submodule(part)
    # Random parts are switched off, but for those in front of the classifier, which go with it.
    chances = {key: m.p for key, m in model.named_modules() if hasattr(m, "p") and isinstance(m.p, float)}
    assert not {key for key, chance in chances.items() if chance > 0 and not key.startswith(spec.classifier)}
