"""One clinic's optimiser: the study's learning rate over time, what its algorithm adds to gradients, and the step.

The learning rate of a step follows from the study and the step's place in the run (`melfed.common.study.step_plan`): a
baseline, which keeps its optimiser, has the same rates as clinics, which begin a new one every round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from melfed.common.study.protocol import StudyProtocol, TrainingSpec
from melfed.common.study.step_plan import Place, learning_rate
from melfed.common.tensors import Tensors


@dataclass(frozen=True)
class Adjustment:
    """What an algorithm adds to the gradients of a round's steps, by the names of the parameters.

    Attributes:
        correction: is added as it is, after long gradients were shortened; empty: none.
        anchor: `federation.proximal_mu` times the way from here is added; empty: none.
    """

    correction: Tensors = field(default_factory=dict)
    anchor: Tensors = field(default_factory=dict)


class LocalOptimizer:
    """Turns the gradients that lie in `Parameter.grad` into steps, as the study says."""

    def __init__(
        self, parameters: Mapping[str, torch.nn.Parameter], study: StudyProtocol, adjustment: Adjustment | None = None
    ) -> None:
        """Begin.

        Args:
            parameters: those that learn, by name.
            study: what is trained.
            adjustment: what the algorithm adds to gradients; None: nothing but fedprox's pull to where it begins.
        """
        self.parameters = list(parameters.values())
        self.study = study
        self.optimizer = _optimizer(self.parameters, study.training)
        adjustment = adjustment or Adjustment()
        self.anchor = _aligned(parameters, adjustment.anchor)
        self.correction = _aligned(parameters, adjustment.correction)
        # A baseline has no global model to stay close to.
        if study.federation.algorithm == "fedprox" and study.federation.mode == "federated":
            self.anchor = [p.detach().clone() for p in self.parameters]

    def step(self, place: Place) -> None:
        """Take one step, at the learning rate of its place in the run."""
        spec, rate = self.study.training, learning_rate(self.study, place)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.anchor is not None:
            for parameter, origin in zip(self.parameters, self.anchor, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - origin, alpha=self.study.federation.proximal_mu)
        if spec.gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, spec.gradient_norm)
        if self.correction is not None:
            for parameter, change in zip(self.parameters, self.correction, strict=True):
                parameter.grad = change.clone() if parameter.grad is None else parameter.grad.add_(change)
        self.optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> Tensors:
        """Return the optimiser's state as named tensors, for a checkpoint."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}/{key}": torch.as_tensor(value).detach().cpu().numpy().astype(np.float32)
            for index, entry in state.items()
            for key, value in entry.items()
            if value is not None
        }

    def restore(self, tensors: Tensors) -> None:
        """Put back what `state` returned."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = torch.from_numpy(tensor.copy())
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _optimizer(parameters: list[torch.nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    rate, decay = spec.learning_rate, spec.weight_decay
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=spec.momentum)


def _aligned(parameters: Mapping[str, torch.nn.Parameter], tensors: Tensors) -> list[torch.Tensor] | None:
    """Return tensors in the order of the parameters, where these are; None of none."""
    if not tensors:
        return None
    return [torch.from_numpy(tensors[name].copy()).to(parameter) for name, parameter in parameters.items()]
