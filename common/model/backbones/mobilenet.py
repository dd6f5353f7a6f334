"""MobileNet v2 and v3 (Sandler et al., arXiv 1801.04381; Howard et al., arXiv 1905.02244)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec


def _mobilenet_v3(name: str, features: int, last_block: tuple[str, ...]) -> BackboneSpec:
    # The layer before the ImageNet classifier belongs to the trunk, as in the paper of MobileNetV3.
    return BackboneSpec(
        TORCHVISION + name, features, "classifier.3", (*last_block, "classifier.0"), arguments={"dropout": 0.0}
    )


BACKBONES = {
    "mobilenet_v2": BackboneSpec(TORCHVISION + "mobilenet_v2", 1280, "classifier", ("features.17", "features.18")),
    "mobilenet_v3_small": _mobilenet_v3(
        "mobilenet_v3_small", 1024, ("features.9", "features.10", "features.11", "features.12")
    ),
    "mobilenet_v3_large": _mobilenet_v3(
        "mobilenet_v3_large", 1280, ("features.13", "features.14", "features.15", "features.16")
    ),
}
