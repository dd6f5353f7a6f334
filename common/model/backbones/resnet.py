"""ResNet and ResNeXt (He et al., arXiv 1512.03385; Xie et al., arXiv 1611.05431)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec


def _resnet(name: str, features: int) -> BackboneSpec:
    return BackboneSpec(TORCHVISION + name, features, "fc", ("layer4",))


BACKBONES = {
    "resnet18": _resnet("resnet18", 512),
    "resnet50": _resnet("resnet50", 2048),
    "resnext50_32x4d": _resnet("resnext50_32x4d", 2048),
}
