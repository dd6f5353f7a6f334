"""A small network of our own, without pretrained weights."""

from melfed.common.model.backbones.spec import BackboneSpec

BACKBONES = {
    "simple_cnn": BackboneSpec(
        "melfed.common.model.classifier:SimpleCNN", 11, None, ("features.12",), published=None, dropout=0.4
    ),
}
