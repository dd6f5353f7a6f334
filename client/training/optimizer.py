"""One clinic's optimiser: the study's learning rate over time, the pull towards the global model, and the step.

The learning rate of a step follows from the study and the step's place in the run (`Place`), and from nothing that a
process remembers: whoever is killed, joins late or misses rounds goes on at the rate that the run has reached, and a
baseline, which keeps its optimiser, has the same rates as clinics, which begin a new one every round.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from melfed.common.study.protocol import StudyProtocol, TrainingSpec
from melfed.common.tensors import Tensors


@dataclass(frozen=True)
class Place:
    """Where in the run a step is.

    Attributes:
        round_number: 1-based.
        step: 0-based, within the round.
        steps: of the round.
        before: of all rounds before it, as the study plans them for this clinic: those that it missed count too.
    """

    round_number: int
    step: int
    steps: int
    before: int


class LocalOptimizer:
    """Turns the gradients that lie in `Parameter.grad` into steps, as the study says."""

    def __init__(self, parameters: list[torch.nn.Parameter], study: StudyProtocol) -> None:
        self.parameters = parameters
        self.study = study
        self.optimizer = _optimizer(parameters, study.training)
        self.anchor: list[torch.Tensor] | None = None
        # A baseline has no global model to stay close to.
        if study.federation.algorithm == "fedprox" and study.federation.mode == "federated":
            self.anchor = [p.detach().clone() for p in parameters]

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


def learning_rate(study: StudyProtocol, place: Place) -> float:
    """Return the learning rate of a step: the schedule over all rounds, times the warm-up over the first steps."""
    spec = study.training
    position = (place.round_number - 1 + (place.step + 0.5) / place.steps) / study.federation.rounds
    warmup = min(1.0, (place.before + place.step + 1) / (spec.warmup_steps + 1))
    return spec.learning_rate * schedule_factor(spec.schedule, position) * warmup


def schedule_factor(schedule: str, position: float) -> float:
    """Return the fraction of the peak learning rate at a position in [0, 1] of the whole run.

    `one_cycle` rises from 1/25 over the first 30 % and falls to nothing, both on a cosine (Smith & Topin, arXiv
    1708.07120, in the two-phase form that is common now); `cosine` falls from 1 to 0.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * position))
    low, turn = 1 / 25, 0.3
    if position < turn:
        return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * position / turn))
    return 0.5 * (1 + math.cos(math.pi * (position - turn) / (1 - turn)))


def _optimizer(parameters: list[torch.nn.Parameter], spec: TrainingSpec) -> torch.optim.Optimizer:
    rate, decay = spec.learning_rate, spec.weight_decay
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    if spec.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=spec.momentum)
