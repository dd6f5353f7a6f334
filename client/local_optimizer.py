"""One clinic's optimiser: the study's learning rate over time, the pull towards the global model, and the step."""

import math

import numpy as np
import torch

from common.protocol import StudyProtocol, TrainingSpec
from common.tensors import Tensors


class LocalOptimizer:
    """Turns the gradients that lie in `Parameter.grad` into steps, as the study says."""

    def __init__(self, parameters: list[torch.nn.Parameter], study: StudyProtocol) -> None:
        self.parameters = parameters
        self.study = study
        self.optimizer = _optimizer(parameters, study.training)
        self.steps = 0
        self.anchor: list[torch.Tensor] | None = None
        # A baseline has no global model to stay close to.
        if study.federation.algorithm == "fedprox" and study.federation.mode == "federated":
            self.anchor = [p.detach().clone() for p in parameters]

    def step(self, round_number: int, step: int, steps: int) -> None:
        """Take one step.

        Args:
            round_number: 1-based.
            step: 0-based, within the round.
            steps: of the round; with the study's number of rounds they place the step on the schedule.
        """
        spec = self.study.training
        position = (round_number - 1 + (step + 0.5) / steps) / self.study.federation.rounds
        # Clinics keep no optimiser between rounds, and Adam's first steps, without a second moment yet, move every
        # weight by the full learning rate: without the warm-up they undo what was learnt.
        warmup = min(1.0, (self.steps + 1) / (spec.warmup_steps + 1))
        for group in self.optimizer.param_groups:
            group["lr"] = spec.learning_rate * schedule_factor(spec.schedule, position) * warmup
        if self.anchor is not None:
            for parameter, origin in zip(self.parameters, self.anchor, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() - origin, alpha=self.study.federation.proximal_mu)
        if spec.gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, spec.gradient_norm)
        self.optimizer.step()
        self.steps += 1

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> Tensors:
        """Return the optimiser's state as named tensors, for a checkpoint."""
        state = self.optimizer.state_dict()["state"]
        tensors = {
            f"{index}/{key}": torch.as_tensor(value).detach().cpu().numpy().astype(np.float32)
            for index, entry in state.items()
            for key, value in entry.items()
            if value is not None
        }
        return {**tensors, "steps": np.array([self.steps], np.float32)}

    def restore(self, tensors: Tensors) -> None:
        """Put back what `state` returned."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name == "steps":
                self.steps = int(tensor[0])
                continue
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = torch.from_numpy(tensor.copy())
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


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
