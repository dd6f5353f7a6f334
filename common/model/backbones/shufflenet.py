"""ShuffleNet v2 (Ma et al., arXiv 1807.11164)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec

BACKBONES = {
    "shufflenet_v2_x1_0": BackboneSpec(TORCHVISION + "shufflenet_v2_x1_0", 1024, "fc", ("stage4", "conv5")),
}
