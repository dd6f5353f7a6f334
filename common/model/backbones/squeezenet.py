"""SqueezeNet (Iandola et al., arXiv 1602.07360)."""

from melfed.common.model.backbones.spec import TORCHVISION, BackboneSpec


def _squeezenet(name: str, last_block: tuple[str, ...]) -> BackboneSpec:
    return BackboneSpec(TORCHVISION + name, 512, "classifier", last_block, pools_in_classifier=True)


BACKBONES = {
    "squeezenet1_0": _squeezenet("squeezenet1_0", ("features.10", "features.12")),
    "squeezenet1_1": _squeezenet("squeezenet1_1", ("features.11", "features.12")),
}
