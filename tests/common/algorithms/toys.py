"""Federations of small problems with a known answer, through the parts that a real run is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from melfed.client.training.local_round import LocalRound
from melfed.client.training.optimizer import Adjustment, LocalOptimizer
from melfed.common.algorithms.algorithm import control_of
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import Place, rate_sum
from melfed.common.tensors import Tensors
from melfed.server.aggregation.mean import RoundMean, ServerOptimizer
from tests.client.small import small_study

Loss = Callable[[nn.Module], torch.Tensor]
BATCH = 8


def toy_study(algorithm: str, rounds: int, rate: float = 0.1, **training: object) -> StudyProtocol:
    sgd = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "gradient_norm": None, "batch_size": BATCH}
    federation = {"algorithm": algorithm, "rounds": rounds, "proximal_mu": 1.0}
    return small_study(training={**sgd, "learning_rate": rate, **training}, federation=federation)


class Point(nn.Module):
    """One number that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(1))


def bowl(steepness: float, minimum: float) -> Loss:
    """A clinic's loss, a (x - b)² / 2."""
    return lambda model: steepness * (model.x - minimum).square().sum() / 2


@dataclass
class Ended:
    """The global model, the server's control variate, and what each clinic keeps and is judged by."""

    model: Tensors
    control: Tensors
    kept: list[Tensors] = field(default_factory=list)
    judged: list[Tensors] = field(default_factory=list)


def federate(
    study: StudyProtocol,
    model: nn.Module,
    losses: Sequence[Loss],
    images: Sequence[int],
    *,
    initial: Tensors | None = None,
    asked: Callable[[int], Sequence[int]] | None = None,
) -> Ended:
    """Train a model by the study's algorithm; `asked` says which clinics take part in a round."""
    spec, local = study.federation, LocalRound(study, model, initial or {})
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ours = {n: p.detach().numpy().copy() for n, p in learning.items() if n not in local.initial}
    server, kept = ServerOptimizer(spec), [dict[str, np.ndarray]() for _ in losses]
    for number in range(1, spec.rounds + 1):
        sent = server.sent(ours)
        cohort = range(len(losses)) if asked is None else asked(number)
        total = RoundMean(spec, ours, sum(images), lambda weight, number=number: rate_sum(study, weight, number))
        for clinic in cohort:
            begun = local.begun(sent, kept[clinic])

            def train(adjustment: Adjustment, clinic: int = clinic, number: int = number) -> float:
                optimizer, steps = LocalOptimizer(learning, study, adjustment), -(-images[clinic] // BATCH)
                for step in range(steps):
                    optimizer.zero_grad()
                    loss = losses[clinic](model)
                    loss.backward()
                    optimizer.step(Place(number, step, steps, (number - 1) * steps))
                return loss.item()

            learnt, _ = local.learn(begun, train)
            kept[clinic] = local.kept(begun, learnt, rate_sum(study, images[clinic], number))
            total.check(update := local.sent(begun, learnt), images[clinic])
            total.add(str(clinic), update, images[clinic])
        ours = server.ended(ours, total, sum(images[c] for c in cohort) / sum(images))
    judged = [local.judged(local.begun(ours, own, trains=False)) for own in kept]
    return Ended(ours, control_of(server.state), kept, judged)
