"""DenseNet (Huang et al., arXiv 1608.06993)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec


def _densenet(name: str, features: int) -> BackboneSpec:
    return BackboneSpec(TORCHVISION + name, features, "classifier", ("features.denseblock4", "features.norm5"))


BACKBONES = {
    "densenet121": _densenet("densenet121", 1024),
    "densenet161": _densenet("densenet161", 2208),
}
