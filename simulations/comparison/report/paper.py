"""The published figures that melfed's families come from: Rocheteau & Kim, arXiv 2011.04475v3, table of results.

Mean and half width of the 95 % interval over ten runs. What the paper calls AUROC was computed of rounded predictions,
which makes it balanced accuracy at 0.5. Its positives come for the most part from an archive that supplies no
negatives, and images, not patients, were divided.
"""

from dataclasses import dataclass

NAME = "arXiv:2011.04475"
Value = tuple[float, float]


@dataclass(frozen=True)
class Published:
    """A family's figures, each a mean and the half width of its interval.

    Attributes:
        family: as the paper calls it.
        scratch: balanced accuracy at 0.5 and AUPRC without transfer learning.
        transfer: the same with it; None where the paper has none.
    """

    family: str
    scratch: tuple[Value, Value]
    transfer: tuple[Value, Value] | None


PAPER = {
    "simple_cnn": Published("simple CNN", ((0.759, 0.030), (0.484, 0.026)), None),
    "vgg16": Published("VGG16", ((0.832, 0.018), (0.643, 0.025)), ((0.874, 0.013), (0.740, 0.016))),
    "squeezenet1_0": Published("SqueezeNet 1.0", ((0.860, 0.014), (0.687, 0.011)), ((0.902, 0.015), (0.771, 0.020))),
    "resnext50_32x4d": Published("ResNeXt-50", ((0.878, 0.022), (0.712, 0.035)), ((0.918, 0.006), (0.819, 0.009))),
    "densenet161": Published("DenseNet-161", ((0.859, 0.015), (0.733, 0.021)), ((0.904, 0.011), (0.786, 0.018))),
    "googlenet": Published("GoogLeNet", ((0.861, 0.018), (0.732, 0.024)), ((0.921, 0.006), (0.831, 0.013))),
    "resnet50": Published("ResNet-50", ((0.869, 0.016), (0.744, 0.018)), ((0.880, 0.014), (0.763, 0.022))),
    "mobilenet_v2": Published("MobileNet v2", ((0.889, 0.013), (0.769, 0.019)), ((0.916, 0.007), (0.806, 0.015))),
    "mnasnet1_0": Published("MnasNet", ((0.900, 0.010), (0.771, 0.039)), ((0.928, 0.005), (0.832, 0.013))),
    "shufflenet_v2_x1_0": Published(
        "ShuffleNet v2", ((0.892, 0.016), (0.777, 0.025)), ((0.896, 0.024), (0.769, 0.040))
    ),
    "efficientnet_b2": Published("EfficientNet-B2", ((0.900, 0.009), (0.794, 0.013)), ((0.931, 0.005), (0.840, 0.010))),
}
"""By melfed's name of the backbone, in the paper's order."""

SUBSTITUTES = {"efficientnet_lite0": "efficientnet_b2", "squeezenet1_1": "squeezenet1_0"}
"""Backbones that stand for one of the paper's, and are marked so."""


def published(backbone: str) -> tuple[Published, bool] | None:
    """Return the paper's figures for a backbone, and whether it is a substitute; None where there are none."""
    name = SUBSTITUTES.get(backbone, backbone)
    return (PAPER[name], name != backbone) if name in PAPER else None
