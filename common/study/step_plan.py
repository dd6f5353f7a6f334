"""How many optimiser steps a study plans for whoever has so many training images: known before anybody trains."""

from melfed.common.study.protocol import StudyProtocol, TrainingSpec


def stretch(images: int, epochs: float, round_number: int) -> tuple[int, int]:
    """Return the first image visit of a round, and the first after it, counted over the run.

    Args:
        images: in training, at least 1.
        epochs: passes over them a round; a part of a pass is fine, but a round visits one image at least.
        round_number: 1-based.
    """
    first, last = round((round_number - 1) * epochs * images), round(round_number * epochs * images)
    return first, max(last, first + 1)


def planned_steps(images: int, spec: TrainingSpec, rounds: int) -> int:
    """Return how many steps the first `rounds` rounds of a study without privacy take."""
    stretches = (stretch(images, spec.local_epochs, number) for number in range(1, rounds + 1))
    return sum(-(-(last - first) // spec.batch_size) for first, last in stretches)


def whole_run(images: int, study: StudyProtocol) -> int:
    """Return how many steps a whole run of a study takes; 0 of no images in a study without privacy."""
    if study.privacy is not None:
        return study.privacy.steps * study.federation.rounds
    return planned_steps(images, study.training, study.federation.rounds) if images else 0
