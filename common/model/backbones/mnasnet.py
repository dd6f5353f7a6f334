"""MnasNet (Tan et al., arXiv 1807.11626)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec

BACKBONES = {
    "mnasnet1_0": BackboneSpec(TORCHVISION + "mnasnet1_0", 1280, "classifier", ("layers.13", "layers.14", "layers.15")),
}
