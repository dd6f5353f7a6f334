"""FedBN: clinics whose inputs are scaled and shifted otherwise have affine maps of their own."""

import pytest
import torch
from torch import nn

from melfed.common.model.norms import FrozenStatisticsNorm, affine_names
from tests.common.algorithms.toys import Loss, federate, toy_study

INPUTS = torch.tensor([-1.5, -0.5, 0.5, 1.5]).reshape(4, 1, 1, 1)
MAPS = ((1.0, 0.0), (3.0, 1.0))
"""What each clinic's camera makes of an input: scale and shift."""


class Network(nn.Module):
    """An affine normalisation, then a head: h (γx + β)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = FrozenStatisticsNorm(nn.BatchNorm2d(1))
        self.head = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head * self.norm(inputs)


def camera(scale: float, shift: float) -> Loss:
    """A clinic whose truth is scale · x + shift: mean squared error."""
    return lambda model: (model(INPUTS) - (scale * INPUTS + shift)).square().mean()


def losses_of(algorithm: str) -> tuple[list[float], object]:
    model, losses = Network(), [camera(*each) for each in MAPS]
    names = affine_names(model)
    initial = {n: p.detach().numpy().copy() for n, p in model.named_parameters() if n in names}
    ended = federate(
        toy_study(algorithm, 150, rate=0.05), model, losses, (16, 16), initial=initial if algorithm == "fedbn" else None
    )
    found = []
    for loss, own in zip(losses, ended.judged, strict=True):
        with torch.no_grad():
            for name, tensor in own.items():
                dict(model.named_parameters())[name].copy_(torch.from_numpy(tensor))
        found.append(float(loss(model)))
    return found, ended


def test_local_affine_fits_every_clinic_and_one_for_all_fits_none() -> None:
    found, ended = losses_of("fedbn")
    assert found == pytest.approx([0.0, 0.0], abs=1e-4)
    assert ended.model.keys() == {"head"}, "the global model knows of no normalisation layer"
    assert [own.keys() for own in ended.kept] == [{"norm.weight", "norm.bias"}] * 2
    # The best common map is in the middle: (1 · x)² and 0.5² off at either clinic, with x² = 1.25 on average.
    common, _ = losses_of("fedavg")
    assert sum(common) / 2 == pytest.approx(1.25 + 0.25, rel=0.02)
