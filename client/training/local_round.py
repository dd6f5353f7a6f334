"""A clinic's part of a round, by the study's algorithm: what it begins from, what is judged, sent and kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from melfed.client.training.optimizer import Adjustment
from melfed.common.algorithms import algorithm_of
from melfed.common.algorithms.algorithm import CONTROL, Algorithm, Begun
from melfed.common.compression import compressed
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors, check_tensors, group_of, in_group, shapes

PERSONAL = "personal"
"""Group of the tensors of a second model."""
ALONE = "alone"
"""Group of those of a model that learns from the clinic's patients alone (`evaluation.local_baseline`)."""
Received = Mapping[str, npt.NDArray[np.generic]]
Train = Callable[[Adjustment], float | None]
"""Trains the network as it is loaded, and returns the mean loss, where there is one to tell."""


@dataclass(frozen=True)
class LocalRound:
    """Rounds of one study at a clinic.

    Attributes:
        study: what is trained.
        model: the study's network; models are loaded into it in turn.
        initial: values before the first round of the parameters that the clinic keeps to itself.
        start: those that the model of `evaluation.local_baseline` begins from; empty where there is none.
    """

    study: StudyProtocol
    model: Classifier
    initial: Tensors
    start: Tensors = field(default_factory=dict)

    @property
    def algorithm(self) -> Algorithm:
        """The study's."""
        return algorithm_of(self.study.federation.algorithm)

    @property
    def keeps(self) -> bool:
        """Whether the clinic keeps something from round to round."""
        return self.algorithm.keeps or self.study.evaluation.local_baseline

    def begun(self, tensors: Received, kept: Tensors, *, trains: bool = True) -> Begun:
        """Return what a round begins from.

        Args:
            tensors: what came.
            kept: of the clinic's last round.
            trains: whether the clinic is to train; an evaluation has no control variate.

        Raises:
            TensorError: what came does not fit the study's network.
        """
        control: Tensors = {}
        if trains and self.algorithm.next_control is not None:
            control = _floats(group_of(CONTROL, tensors))
            tensors = {name: array for name, array in tensors.items() if not name.startswith(f"{CONTROL}/")}
            check_tensors(control, shapes(tensors))
        # Checked before a value of it is used.
        learning = {name: tuple(p.shape) for name, p in self.model.named_parameters() if p.requires_grad}
        check_tensors(tensors, {name: shape for name, shape in learning.items() if name not in self.initial})
        return Begun(_floats(tensors), control, kept)

    def judged(self, begun: Begun) -> Tensors:
        """Return the model that is evaluated at this clinic: the global one, or its own."""
        return begun.kept or begun.model if self.algorithm.personal_model else self._whole(begun)

    def alone(self, begun: Begun) -> Tensors:
        """Return the model that has learnt from this clinic's patients alone, as its last round left it."""
        return begun.kept or self.start

    def learn(self, begun: Begun, train: Train) -> tuple[Tensors, float | None]:
        """Train; return all that was learnt (that of a second model in a group of its own), and the loss."""
        correction = self.algorithm.correction
        load_trainable(self.model, self._whole(begun))
        loss = train(Adjustment(correction=correction(begun) if correction else {}))
        learnt = trainable_tensors(self.model)
        if self.algorithm.personal_model:
            load_trainable(self.model, self.judged(begun))
            train(Adjustment(anchor=begun.model))
            learnt |= _floats(in_group(PERSONAL, trainable_tensors(self.model)))
        if self.study.evaluation.local_baseline:
            load_trainable(self.model, self.alone(begun))
            train(Adjustment())
            learnt |= _floats(in_group(ALONE, trainable_tensors(self.model)))
        return learnt, loss

    def sent(self, begun: Begun, learnt: Tensors) -> Tensors:
        """Return what leaves the clinic: the tensors of the global model, and no others."""
        return {name: learnt[name] for name in begun.model}

    def kept(self, begun: Begun, learnt: Tensors, rate_sum: float) -> Tensors:
        """Return what the clinic keeps for its next round; empty where the algorithm keeps nothing."""
        if self.algorithm.personal_model:
            return _floats(group_of(PERSONAL, learnt))
        if self.study.evaluation.local_baseline:
            return _floats(group_of(ALONE, learnt))
        return self.algorithm.keep(begun, learnt, rate_sum) if self.algorithm.keep else {}

    def _whole(self, begun: Begun) -> Tensors:
        """Return the global model, with the clinic's own values of what it keeps to itself."""
        return {**self.initial, **begun.model, **(begun.kept if self.algorithm.local_affine else {})}


def told_as(study: StudyProtocol, clinic: str, learnt: Tensors, began: Tensors, round_number: int) -> Received:
    """Return a clinic's tensors as the study has them travel: as they are, or as differences in fewer bits."""
    kind = study.federation.compression
    if kind == "none":
        return learnt
    return compressed(learnt, began, kind, seed_for(study.seed_of("training"), "compression", clinic, round_number))


def _floats(tensors: Received) -> Tensors:
    return {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
