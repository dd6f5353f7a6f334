"""VGG (Simonyan & Zisserman, arXiv 1409.1556)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec


def _vgg(name: str, last_block: tuple[str, ...]) -> BackboneSpec:
    # The two layers of 4096 stay frozen with last_block: their 119 million parameters are what it is chosen to avoid.
    return BackboneSpec(TORCHVISION + name, 4096, "classifier.6", last_block, arguments={"dropout": 0.0})


BACKBONES = {
    "vgg11": _vgg("vgg11", ("features.16", "features.18")),
    "vgg16": _vgg("vgg16", ("features.24", "features.26", "features.28")),
}
