"""The network of a study: a backbone, an optional branch for age, sex and site, and a head with one logit."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.errors import StudyError, WeightsError
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.backbones.spec import Trainable
from melfed.common.model.neck import Neck, tap_modules
from melfed.common.model.norms import (
    FrozenStatisticsNorm,
    frozen_statistics,
    group_norm,
    norm_parameters,
    replace_batch_norms,
    require_patients_apart,
)
from melfed.common.tensors import Tensors, check_tensors

METADATA_WIDTHS: Final = (32, 16)
"""Outputs of the two layers of the metadata branch."""

NECK_METADATA_SCALE: Final = 0.25
"""Behind a neck the head sees an encoded record itself, shorter than the whitened image features (norm about 1)."""


class ModelChoices(Protocol):
    """What `build_classifier` needs to know; the study's `model` section has it."""

    @property
    def backbone(self) -> str:
        """A name of `melfed.common.model.backbones.BACKBONES`."""

    @property
    def pretrained(self) -> bool:
        """Whether training starts from ImageNet weights."""

    @property
    def train(self) -> Trainable:
        """Which parameters learn and travel."""

    @property
    def metadata(self) -> bool:
        """Whether age, sex and site are joined before the head."""

    @property
    def dropout_rate(self) -> float:
        """Dropout before the head."""

    @property
    def neck(self) -> int | None:
        """How many whitened features the head sees; None: the backbone's own."""


class Classifier(nn.Module):
    """A backbone without its own classifier (`trunk`), an optional `metadata` branch, and a linear `head`.

    The metadata branch follows arXiv 2011.04475: a small multilayer perceptron whose output is joined to the image
    features. The head starts at zero, so every image starts with probability 0.5: the first steps then depend on the
    data alone, and the head's first gradients are not lost under noise in private training (Mehta et al., arXiv
    2205.02973).
    """

    metadata: nn.Module | None
    neck: Neck | None

    def __init__(
        self, backbone: str, trunk: nn.Module, *, metadata: bool, dropout: float, neck: int | None = None
    ) -> None:
        """Join the parts.

        Args:
            backbone: a name of `melfed.common.model.backbones.BACKBONES`.
            trunk: maps images (n, 3, height, width) to features (n, BACKBONES[backbone].features).
            metadata: whether there is a metadata branch.
            dropout: probability with which a feature is dropped before the head, in training.
            neck: how many whitened features the head sees (`melfed.common.model.neck`), zeros until statistics are
            loaded; None:
                the backbone's own features.
        """
        super().__init__()
        self.backbone = backbone
        self.trunk = trunk
        self.neck = Neck(*tap_modules(trunk, backbone_spec(backbone).size), neck) if neck else None
        # A small head is what a neck is for: no perceptron beside it.
        self.metadata = (ScaledMetadata() if neck else _metadata_branch()) if metadata else None
        self.dropout = nn.Dropout(dropout)
        joined = (METADATA_FEATURES if neck else METADATA_WIDTHS[-1]) if metadata else 0
        self.head = nn.Linear((neck or backbone_spec(backbone).features) + joined, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return a logit an image.

        Args:
            images: normalised by the backbone's mean and std, float (n, 3, height, width).
            metadata: as `melfed.common.data.metadata.encode_metadata` makes it, float (n, METADATA_FEATURES); where
            there is a
                branch for it only.

        Returns:
            Logits of a melanoma, shape (n,).
        """
        return self.logits(self.features(images), metadata)

    def features(self, images: Tensor) -> Tensor:
        """Map images to what the head sees of them, shape (n, features)."""
        if self.neck is None:
            features: Tensor = self.trunk(images)
            return features
        whitened: Tensor = self.neck(self.pooled(images))
        return whitened

    def pooled(self, images: Tensor) -> Tensor:
        """Map images to what the neck sees of them, shape (n, inputs). Raises ValueError where there is no neck."""
        if self.neck is None:
            raise ValueError("the classifier has no neck")
        with self.neck.tapped(self.trunk) as parts:
            self.trunk(images)
        return torch.cat(parts, dim=1)

    def logits(self, features: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Return a logit an image, shape (n,), from what `features` gave; `metadata` as for `forward`.

        Where nothing learns (torch's inference mode) the head is computed in double precision, and so are the logits:
        in single, or under autocast half, precision scores would be tied that are far from 0 and close to each other.
        """
        if (metadata is None) != (self.metadata is None):
            raise ValueError("metadata must be given where the classifier has a branch for it, and only there")
        if self.metadata is not None:
            features = torch.cat([features, self.metadata(metadata)], dim=1)
        features = self.dropout(features)
        if torch.is_inference_mode_enabled():
            # Row by row: an image's last digits must not hang on how many others there are.
            return (features.double() * self.head.weight.double()).sum(1) + self.head.bias.double()
        logits: Tensor = self.head(features)
        return logits.squeeze(1)


class ScaledMetadata(nn.Module):
    """What the head sees of a record behind a neck; nothing of it learns."""

    def forward(self, encoded: Tensor) -> Tensor:
        """Map encoded records (n, METADATA_FEATURES) to the same, shorter."""
        return encoded * NECK_METADATA_SCALE


class SimpleCNN(nn.Module):
    """The paper's simple network (arXiv 2011.04475): five convolutions of 11 filters, kernel 4, and max-pooling of 3.

    Pooling rounds up, so that inputs of 32 px still have a position left after five of them. It has no normalisation.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (3, 11, 11, 11, 11):
            layers += [nn.Conv2d(channels, 11, 4, padding=2), nn.ReLU(), nn.MaxPool2d(3, ceil_mode=True)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, 3, height, width) to features (n, 11)."""
        pooled: Tensor = self.pool(self.features(images))
        return pooled.flatten(1)


def build_trunk(backbone: str, *, pretrained: bool) -> nn.Module:
    """Build a backbone as its library does, without the ImageNet classifier; its BatchNorms are still in place.

    Args:
        backbone: a name of `melfed.common.model.backbones.BACKBONES`.
        pretrained: whether weights will be loaded; they are not loaded here.

    Returns:
        A module that maps images (n, 3, height, width) to features (n, BACKBONES[backbone].features), on torch's
        current default device, with random values from torch's global generator.

    Raises:
        StudyError: there is no such backbone.
    """
    spec = backbone_spec(backbone)
    module, _, function = spec.constructor.partition(":")
    arguments: dict[str, Any] = {**spec.arguments, **(spec.pretrained_arguments if pretrained else {})}
    trunk: nn.Module = getattr(importlib.import_module(module), function)(**arguments)
    if spec.classifier is not None:
        trunk.set_submodule(spec.classifier, nn.AdaptiveAvgPool2d(1) if spec.pools_in_classifier else nn.Identity())
    return trunk


def _blank_trunk(backbone: str, *, pretrained: bool) -> nn.Module:
    """Return a backbone whose parameters hold anything. No random values are drawn first: that takes seconds for VGG.

    Models of timm are the exception: some keep tensors that no file of weights has, and make them with the others.
    """
    if backbone_spec(backbone).timm is not None:
        with _seeded(0):
            return build_trunk(backbone, pretrained=pretrained)
    with torch.device("meta"):
        trunk = build_trunk(backbone, pretrained=pretrained)
    return trunk.to_empty(device="cpu")


def _replace_batch_norms(trunk: nn.Module, backbone: str, *, pretrained: bool) -> None:
    replace_batch_norms(trunk, FrozenStatisticsNorm if pretrained else group_norm)
    require_patients_apart(trunk, backbone)


def build_classifier(model: ModelChoices, *, seed: int, state: Mapping[str, Tensor] | None) -> Classifier:
    """Build a study's network on the CPU; the same seed gives the same network, and no global generator is touched.

    With ImageNet weights, normalisation keeps their statistics for ever (`FrozenStatisticsNorm`). From scratch there
    are no statistics to keep, and BatchNorm's own would be shared between patients and clinics, so it is replaced by
    GroupNorm, which normalises each image by itself.

    Args:
        model: the study's choices.
        seed: of everything that starts random.
        state: the backbone's weights as `melfed.common.model.weights.load_weights` returns them; None from scratch.

    Returns:
        The network, with the parameters that `model.train` names requiring gradients.

    Raises:
        StudyError: there is no such backbone, or `state` is given where it is not wanted, or the reverse.
        WeightsError: the state is of another backbone.
    """
    if model.pretrained != (state is not None):
        given = "weights were given" if state is not None else "no weights were given"
        raise StudyError(f"model.pretrained is {str(model.pretrained).lower()}, but {given}; change one of the two")
    with _seeded(seed):
        if state is None:
            trunk = build_trunk(model.backbone, pretrained=False)
            _replace_batch_norms(trunk, model.backbone, pretrained=False)
        else:
            trunk = _pretrained_trunk(model.backbone, state)
        rate = model.dropout_rate
        classifier = Classifier(model.backbone, trunk, metadata=model.metadata, dropout=rate, neck=model.neck)
    set_trainable(classifier, model.train)
    return classifier


def saved_classifier(model: ModelChoices, tensors: Mapping[str, Tensor]) -> Classifier:
    """Build a study's network with all of its tensors, as `state_dict` gave them; nothing else is looked for.

    Args:
        model: the study's choices.
        tensors: by the network's own names.

    Returns:
        The network on the CPU, with the parameters that `model.train` names requiring gradients.

    Raises:
        StudyError: there is no such backbone.
        WeightsError: the tensors are of another network.
    """
    trunk = _blank_trunk(model.backbone, pretrained=model.pretrained)
    _replace_batch_norms(trunk, model.backbone, pretrained=model.pretrained)
    with _seeded(0):  # what it begins with is overwritten
        rate = model.dropout_rate
        classifier = Classifier(model.backbone, trunk, metadata=model.metadata, dropout=rate, neck=model.neck)
    own = classifier.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in tensors.items()}:
        raise WeightsError(f"{model.backbone}: the saved tensors are of another network")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])
    set_trainable(classifier, model.train)
    return classifier


def outline(model: ModelChoices) -> Classifier:
    """Return a study's network without its values, which takes no memory (torch's device `meta`).

    Raises:
        StudyError: there is no such backbone.
    """
    with torch.device("meta"):
        trunk = build_trunk(model.backbone, pretrained=model.pretrained)
        _replace_batch_norms(trunk, model.backbone, pretrained=model.pretrained)
        rate = model.dropout_rate
        classifier = Classifier(model.backbone, trunk, metadata=model.metadata, dropout=rate, neck=model.neck)
    set_trainable(classifier, model.train)
    return classifier


def warm_classifier(model: ModelChoices, *, seed: int, tensors: Mapping[str, Tensor]) -> tuple[Classifier, set[str]]:
    """Build a study's network with the trunk of another run's network, and its other parts where they fit.

    Args:
        model: the study's choices.
        seed: of a metadata branch that the other network lacks; a head that does not fit starts at zero.
        tensors: of the other network, by its own names.

    Returns:
        The network on the CPU, and the names of its tensors that the other network did not have.

    Raises:
        StudyError: there is no such backbone.
        WeightsError: the other network's trunk is not this one's.
    """
    trunk = _blank_trunk(model.backbone, pretrained=model.pretrained)
    _replace_batch_norms(trunk, model.backbone, pretrained=model.pretrained)
    with _seeded(seed):
        rate = model.dropout_rate
        classifier = Classifier(model.backbone, trunk, metadata=model.metadata, dropout=rate, neck=model.neck)
    own = classifier.state_dict()
    fitting = {name for name, value in own.items() if name in tensors and tensors[name].shape == value.shape}
    trunks = [{name for name in names if name.startswith("trunk.")} for names in (own, tensors, fitting)]
    if not trunks[0] == trunks[1] == trunks[2]:
        raise WeightsError(f"{model.backbone}: the run's network is of another kind; name a run of the same backbone")
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(tensors[name])
    set_trainable(classifier, model.train)
    return classifier, own.keys() - fitting


def set_trainable(model: Classifier, part: Trainable) -> None:
    """Choose which parameters learn and travel, by their `requires_grad`. Frozen statistics never do.

    - `head`: the head and the metadata branch.
    - `affine`: these, the weight and bias of every normalisation layer, and every other bias.
    - `last_block`: these two and the backbone's last stage (`BackboneSpec.last_block`).
    - `full`: everything.
    """
    norms, statistics = norm_parameters(model), frozen_statistics(model)
    if model.neck is not None:
        statistics |= set(model.neck.parameters())
    last_block = tuple(f"trunk.{prefix}." for prefix in backbone_spec(model.backbone).last_block)
    for name, parameter in model.named_parameters():
        chosen = (
            part == "full"
            or not name.startswith("trunk.")
            or (part == "affine" and (parameter in norms or name.endswith(".bias")))
            or (part == "last_block" and name.startswith(last_block))
        )
        parameter.requires_grad_(chosen and parameter not in statistics)


def trainable_tensors(model: Classifier) -> Tensors:
    """Return copies of the parameters that learn, float32, in the order of their names."""
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format).numpy()
        for name, parameter in sorted(_trainable(model).items())
    }


def load_trainable(model: Classifier, tensors: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Replace the values of the parameters that learn; nothing is replaced where any tensor does not fit.

    Args:
        model: its trainable parameters are overwritten in place, on the device where they are.
        tensors: exactly the names and shapes of `trainable_tensors(model)`, float32, finite.

    Raises:
        TensorError: names the first tensor that does not fit and says how.
    """
    parameters = _trainable(model)
    check_tensors(tensors, {name: tuple(parameter.shape) for name, parameter in parameters.items()})
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.tensor(tensors[name]))


def _metadata_branch() -> nn.Module:
    first, second = METADATA_WIDTHS
    return nn.Sequential(nn.Linear(METADATA_FEATURES, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())


def _pretrained_trunk(backbone: str, state: Mapping[str, Tensor]) -> nn.Module:
    """Return a backbone with these weights."""
    trunk = _blank_trunk(backbone, pretrained=True)
    # By hand, since load_state_dict wants BatchNorm's counters and, for MnasNet, a version that plain tensors lack.
    own = {name: value for name, value in trunk.state_dict().items() if not name.endswith("num_batches_tracked")}
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
        raise WeightsError(f"{backbone}: these weights are of another model; name the backbone's own file")
    for name, value in own.items():
        value.copy_(state[name])
    _replace_batch_norms(trunk, backbone, pretrained=True)
    return trunk


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, and give it its former state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _trainable(model: Classifier) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
