"""EfficientNet (Tan & Le, arXiv 1905.11946)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec


def _efficientnet(name: str, features: int) -> BackboneSpec:
    return BackboneSpec(
        TORCHVISION + name,
        features,
        "classifier",
        ("features.7", "features.8"),
        arguments={"stochastic_depth_prob": 0.0},
    )


BACKBONES = {
    "efficientnet_b0": _efficientnet("efficientnet_b0", 1280),
    "efficientnet_b2": _efficientnet("efficientnet_b2", 1408),
}
