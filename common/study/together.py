"""Which keys of a study contradict each other: a study that states both is refused, in one line."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from melfed.common.algorithms import algorithm_of

if TYPE_CHECKING:
    from melfed.common.study.protocol import StudyProtocol


def contradiction(study: "StudyProtocol") -> str:
    """Return the first contradiction of a study, with what to do; "" where there is none."""
    return next(itertools.chain(_stop(study), _algorithm(study), _local_baseline(study)), "")


def _stop(study: "StudyProtocol") -> Iterator[str]:
    """Yield what early stopping does not go with."""
    federation, privacy = study.federation, study.privacy
    if federation.stop is None or federation.mode == "one_round":
        return
    if federation.tail_average:
        yield (
            "federation.stop takes the model of the best round, and federation.tail_average the average of the last "
            "ones; leave out one of them"
        )
    if federation.stop.metric == "brier" and privacy is not None and privacy.evaluation == "noised":
        yield "federation.stop.metric brier is not measured on noised histograms; take auroc or auprc"


def _algorithm(study: "StudyProtocol") -> Iterator[str]:
    """Yield what the study's algorithm does not go with."""
    federation, privacy = study.federation, study.privacy
    algorithm, name = algorithm_of(federation.algorithm), f"federation.algorithm {federation.algorithm}"
    if federation.mode == "one_round":
        return
    if privacy is not None and not algorithm.private:
        yield (
            f"{name} has no effect in a private study, whose clinics all take privacy.steps steps a round; take fedavg"
        )
    # What a recipe still chooses is looked at when it has.
    chosen = privacy is None or privacy.recipe == "manual"
    if algorithm.sgd_alone and chosen and study.training.optimizer != "sgd":
        yield f"{name} is derived for steps along gradients: state training.optimizer sgd"
    if algorithm.directed and federation.robust != "none":
        yield f"{name} is of the weighted mean, and federation.robust {federation.robust} is another; leave out one"
    if algorithm.next_control is not None and (federation.clip_update_norm or federation.compression != "none"):
        yield f"{name} follows updates as clinics make them: leave out federation.clip_update_norm and compression"
    if algorithm.local_affine and study.model.train == "head":
        yield f"{name} keeps normalisation layers, and with model.train head none learns; take affine or full"
    if algorithm.personal_model and federation.start == "one_round":
        yield (
            f"{name} trains a second model, and federation.start one_round shares ε among moments and the steps of "
            "one; leave out one of them"
        )
    if algorithm.personal and federation.stop is not None:
        yield (
            f"{name} has a model at each clinic, of which federation.stop could not bring back the best round's; leave "
            "out one of them"
        )


def _local_baseline(study: "StudyProtocol") -> Iterator[str]:
    """Yield what a model of each clinic alone, beside the global one, does not go with."""
    federation, algorithm = study.federation, algorithm_of(study.federation.algorithm)
    if not study.evaluation.local_baseline:
        return
    if federation.mode == "one_round":
        yield "evaluation.local_baseline trains at the clinics, and in federation.mode one_round nobody trains there"
    if federation.mode == "federated" and federation.start == "one_round":
        yield (
            "evaluation.local_baseline trains a second model, and federation.start one_round shares ε among moments "
            "and the steps of one; leave out one of them"
        )
    if algorithm.keeps or algorithm.local_affine:
        yield (
            f"federation.algorithm {federation.algorithm} keeps state of its own at the clinics; take fedavg, or leave "
            "out evaluation.local_baseline"
        )
