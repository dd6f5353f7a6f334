"""GoogLeNet (Szegedy et al., arXiv 1409.4842)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec

BACKBONES = {
    "googlenet": BackboneSpec(
        TORCHVISION + "googlenet",
        1024,
        "fc",
        ("inception5a", "inception5b"),
        arguments={"aux_logits": False, "init_weights": False, "dropout": 0.0},
        # The published weights expect mean = std = 0.5; the network converts from ImageNet's itself.
        pretrained_arguments={"transform_input": True},
        other_names=("aux1", "aux2"),
    ),
}
