"""The part of a classifier that is exported: from pixels to logits, normalisation inside."""

import torch
from torch import Tensor, nn

from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.model.backbones import backbone_spec
from melfed.common.model.classifier import Classifier


class ExportNetwork(nn.Module):
    """A classifier behind the normalisation of its backbone; nothing of it learns any more."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Classifier, *, features: bool = False) -> None:
        """Take a classifier, which is set to evaluation and to needing no gradients; `features` go out as well."""
        super().__init__()
        spec = backbone_spec(model.backbone)
        std = torch.tensor(spec.std)
        self.register_buffer("scale", (1 / (255 * std)).reshape(1, 3, 1, 1))
        self.register_buffer("shift", (-torch.tensor(spec.mean) / std).reshape(1, 3, 1, 1))
        self.gives_features = features
        self.model = model.cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        self.eval()

    def forward(self, pixels: Tensor, metadata: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits, float32 (n,), and what the head sees, float32 (n, features), where that is wanted.

        Args:
            pixels: RGB, float32 (n, 3, size, size), 0 to 255.
            metadata: float32 (n, METADATA_FEATURES), where the classifier has a branch for it.
        """
        features = self.model.features(pixels * self.scale + self.shift)
        logits = self.model.logits(features, metadata)
        return (logits, features) if self.gives_features else logits


def example(network: ExportNetwork, size: int, n: int = 1) -> tuple[Tensor, ...]:
    """Return inputs of the shapes that the network takes."""
    pixels = torch.zeros(n, 3, size, size)
    return (pixels,) if network.model.metadata is None else (pixels, torch.zeros(n, METADATA_FEATURES))
