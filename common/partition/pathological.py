"""pathological: each clinic has groups of `classes` classes, and the groups of a class are divided evenly among the
clinics that have it (McMahan et al. 2017, arXiv 1602.05629; "#C = k" of Li et al. 2021, arXiv 2102.02079).
"""

import numpy as np

from melfed.common.errors import StudyError
from melfed.common.partition.scheme import Dealt, Owners, SchemeOptions


def _deal(dealt: Dealt, clinics: int, options: SchemeOptions, generator: np.random.Generator) -> Owners:
    names, numbers = np.unique(np.array(dealt.classes), return_inverse=True)
    each = options.classes or 1
    if each > len(names):
        raise StudyError(
            f"partition.classes is {each}, but there are {len(names)} classes ({', '.join(names)}); ask for fewer"
        )
    if clinics * each < len(names):
        raise StudyError(
            f"{clinics} clinics of {each} classes have no room for {len(names)} ({', '.join(names)}): raise "
            "partition.clinics or partition.classes, or leave diagnoses out"
        )
    holders = _holders(len(names), clinics, each, generator)
    owners = np.empty(len(numbers), dtype=np.intp)
    for number, clinics_of_class in enumerate(holders):
        chosen = np.flatnonzero(numbers == number)
        # Who gets the one group more is drawn too.
        places = generator.permutation(clinics_of_class)
        owners[chosen] = generator.permutation(places[np.arange(len(chosen)) % len(places)])
    return owners


def _holders(classes: int, clinics: int, each: int, generator: np.random.Generator) -> list[list[int]]:
    """Draw which clinics have each class: every clinic has `each`, and classes as many clinics as others, or one more.

    Each clinic takes those classes that the fewest have so far, ties drawn; so no class is left to nobody.
    """
    holders: list[list[int]] = [[] for _ in range(classes)]
    for clinic in generator.permutation(clinics):
        ties = generator.random(classes)
        fewest = sorted(range(classes), key=lambda number: (len(holders[number]), ties[number]))
        for number in fewest[:each]:
            holders[number].append(int(clinic))
    return holders


DEAL = _deal
