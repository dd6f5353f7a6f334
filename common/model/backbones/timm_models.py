"""Any model of timm, as the backbone `timm/NAME` or `timm/NAME.TAG`: ViT, ConvNeXt, DINOv2 and v3 and the others.

A tag names the weights (`timm/convnext_tiny.in12k_ft_in1k`); without one they are those that timm takes by default.
Normalisation and size of the input are those of timm's own configuration of these weights. torch and timm are loaded
when something is asked about such a model, and not before.
"""

import copy
import difflib
import functools
import re
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from melfed.common.errors import StudyError, WeightsError
from melfed.common.model.backbones.spec import BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX: Final = "timm/"
_FORM: Final = re.compile(r"timm/[a-z0-9][a-z0-9_]*(\.[a-z0-9][a-z0-9_]*)?")

_CANNOT: Final = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, AttributeError)
"""What models raise on images of a size that they are not made for, and loaders on tensors of another model."""

_CHANCE: Final = ("p", "drop_prob", "prob")
"""What timm's and torch's layers of dropout call their probability."""


def is_timm(name: str) -> bool:
    """Tell whether a backbone's name has the form of one of timm's; whether there is such a model is not asked.

    >>> is_timm("timm/vit_small_patch14_dinov2.lvd142m"), is_timm("timm/hf-hub:someone/model"), is_timm("resnet18")
    (True, False, False)
    """
    return _FORM.fullmatch(name) is not None


@functools.lru_cache(maxsize=8)
def timm_spec(name: str) -> BackboneSpec:
    """Return a model's entry.

    Raises:
        StudyError: timm is not installed, has no such model or no such weights of it, or the model makes no features
            of a picture; in one line.
    """
    model_name = _known(name)
    settings = configuration(name)
    if len(settings["mean"]) != 3 or settings["input_size"][0] != 3:
        raise StudyError(f"model.backbone: {name} takes {settings['input_size'][0]} channels, and pictures have three")
    size = settings["input_size"][-1]
    model = _on_meta(name)
    features = _output(model, size)
    if isinstance(features, str):
        raise StudyError(f"model.backbone: {name} makes no features of a picture: {features}; choose another model")
    return BackboneSpec(
        f"{__name__}:build",
        features,
        None,
        _last_block(model),
        tuple(settings["mean"]),
        tuple(settings["std"]),
        arguments={"name": name},
        published=None,
        timm=model_name,
        size=size,
        cut=False,
    )


def configuration(name: str) -> dict[str, Any]:
    """Return timm's own configuration of a model's weights: mean, std, input_size, where they are, and so on."""
    from timm.models import get_pretrained_cfg

    found: Any = get_pretrained_cfg(_known(name))
    if found is None:
        raise StudyError(f"model.backbone: timm has no configuration of {name}; choose another model")
    return dict(found.to_dict())


def require_size(name: str, size: int) -> None:
    """Raise StudyError where a model does not take square images of so many pixels."""
    if (problem := _output(_on_meta(name), size)) and isinstance(problem, str):
        own = timm_spec(name).size
        raise StudyError(
            f"data.image_size: {name} does not take images of {size} px ({problem}); its own size is {own} px"
        )


def build(name: str) -> "nn.Module":
    """Return a model without its classifier, with random values; it maps images (n, 3, h, w) to features (n, f).

    All chance inside is switched off, as in every backbone (`BackboneSpec.arguments`).
    """
    return _without_chance(_created(name, num_classes=0))


def load(name: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the values of a model's tensors, without its classifier's, of the file that timm publishes.

    timm's own loader brings older files to the names and shapes of today. It runs strictly here: with another number
    of classes it would leave what a file lacks random, and say nothing.

    Args:
        name: of the backbone.
        tensors: of the file, the classifier's too.

    Raises:
        WeightsError: they are of another model.
    """
    overlay = {"state_dict": dict(tensors), "custom_load": False}
    try:
        model: Any = _created(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (*_CANNOT, KeyError) as error:
        reason = textwrap.shorten(str(error), 300, placeholder=" …")
        raise WeightsError(f"not the weights of {name}: {reason}; name the model's own file") from None
    model.reset_classifier(0)
    return {key: value.float() if value.is_floating_point() else value for key, value in model.state_dict().items()}


def _known(name: str) -> str:
    """Return timm's own name of a model. Raises StudyError where there is none."""
    try:
        from timm.models import is_model, list_models, list_pretrained
    except ImportError:
        raise StudyError(f"model.backbone: {name} needs timm: pip install timm") from None
    if not is_timm(name):
        raise StudyError(
            f"model.backbone: {name!r} is no name of a timm model, such as timm/convnext_tiny.in12k_ft_in1k"
        )
    model_name = name.removeprefix(PREFIX)
    architecture, _, tag = model_name.partition(".")
    if not is_model(architecture):
        nearest = difflib.get_close_matches(architecture, list_models(), 1, 0)[0]
        raise StudyError(f"model.backbone: timm has no model {architecture!r}; did you mean {PREFIX}{nearest}?")
    if tag:
        tags = [found.partition(".")[2] for found in list_pretrained(f"{architecture}.*")]
        if tag not in tags:
            there_are = f"there are {', '.join(tags)}" if tags else "it has none; leave them out"
            raise StudyError(f"model.backbone: timm/{architecture} has no weights {tag!r}: {there_are}")
    return model_name


def _created(name: str, **arguments: Any) -> "nn.Module":
    """Return timm's model, made for images of any size where it can be."""
    from timm import create_model

    model_name = _known(name)
    flexible: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
    if not configuration(name).get("fixed_input_size"):
        flexible = ({},)
    for more in flexible[:-1]:
        try:
            found: nn.Module = create_model(model_name, **more, **arguments)
        except TypeError as error:
            if next(iter(more)) not in str(error):
                raise
        else:
            return found
    last: nn.Module = create_model(model_name, **arguments)
    return last


def _without_chance(model: "nn.Module") -> "nn.Module":
    for module in model.modules():
        for key in _CHANCE if "Drop" in type(module).__name__ else ():
            if isinstance(getattr(module, key, None), float | int):
                setattr(module, key, 0.0)
    return model


@functools.lru_cache(maxsize=1)
def _on_meta(name: str) -> "nn.Module":
    """Return a model whose tensors have no values, to ask for shapes.

    It is made with values first: some models compute with them while they are made.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        model = build(name)
    return copy.deepcopy(model).to("meta").eval()


def _output(model: "nn.Module", size: int) -> int | str:
    """Return how many features a model makes of an image of so many pixels, or why none."""
    import torch

    try:
        with torch.inference_mode():
            found = model(torch.empty(1, 3, size, size, device="meta"))
    except _CANNOT as error:
        return textwrap.shorten(str(error), 150, placeholder=" …") or type(error).__name__
    if not isinstance(found, torch.Tensor) or found.dim() != 2 or found.shape[1] < 1:
        return "its output is no vector"
    return int(found.shape[1])


def _last_block(model: Any) -> tuple[str, ...]:
    """Return the modules of the last stage and after, as timm groups layers; none where it does not."""
    from timm.models import group_parameters

    if not hasattr(model, "group_matcher"):
        return ()
    groups = group_parameters(model, model.group_matcher(coarse=True))
    named = [[key for key in groups[number] if "." in key] for number in sorted(groups)]
    stages = [keys for keys in named if keys]
    # Some have the norm before the head in a group of its own.
    alone = bool(stages) and all(model.get_parameter(key).dim() < 2 for key in stages[-1])
    tail = stages[-2:] if alone else stages[-1:]
    return tuple(dict.fromkeys(key.rpartition(".")[0] for keys in tail for key in keys))
