"""What a backbone is: how it is built, how its input is normalised, where its parts are and its weights come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Trainable = Literal["head", "affine", "last_block", "full"]
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
    timm: str | None = None
    """Name of the model in timm, whose configuration says where its weights are, and whose loader reads them."""
    size: int | None = None
    """Side, in pixels, of the images that a network of timm was made for; None: any will do."""
    cut: bool = True
    """Whether the outputs of what comes before the last block can be kept, where that block learns."""
    dropout: float = 0.0
    """Dropout before the head that belongs to the architecture; a study that states one has its own instead."""


TORCHVISION: Final = "torchvision.models:"
"""How the constructors of torchvision's networks begin."""
