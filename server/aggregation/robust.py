"""What robust aggregation asks of a run: enough updates a round, and none that is longer than the study allows.

The rules themselves are in `melfed.common.aggregation`. They need all updates of a round at once: memory is
O(clinics × model), where the weighted mean needs O(model). A round with fewer than `replies_needed` updates fails.
"""

import math
from collections.abc import Mapping

import numpy as np

from melfed.common.aggregation import RULES
from melfed.common.aggregation.blocks import blocks
from melfed.common.errors import StudyError
from melfed.common.study.protocol import FederationSpec
from melfed.common.tensors import Array, Tensors


def replies_needed(spec: FederationSpec) -> int:
    """Return how many updates the study's aggregation needs at least."""
    return 1 if spec.robust == "none" else RULES[spec.robust].needed(spec)


def cohort_size(spec: FederationSpec, clinics: int) -> int:
    """Return how many of so many clinics a round asks (`federation.cohort`)."""
    return max(1, round(spec.cohort * clinics))


def clinics_needed(spec: FederationSpec, clinics: int) -> int:
    """Return how many of a run's clinics must take part, so that a round's cohort is enough for the aggregation.

    Raises:
        StudyError: not even all of them are enough: every round would train, and charge privacy, for nothing.
    """
    needed = replies_needed(spec)
    for number in range(1, clinics + 1):
        if cohort_size(spec, number) >= needed:
            return number
    asked = cohort_size(spec, clinics)
    cure = f"take {needed} clinics or more" + (", and federation.cohort 1" if spec.cohort < 1 else "")
    if clinics >= needed:
        cure = f"set federation.cohort to {math.ceil(100 * needed / clinics) / 100:g} or more"
    if needed > 3 and asked >= 5:
        cure += f", or federation.robust_byzantine to {(asked - 3) // 2}"
    elif needed > 3 and asked >= 3:
        cure += ", or choose federation.robust median, which needs 3"
    raise StudyError(
        f"federation.robust {spec.robust} needs {needed} updates a round, and of {clinics} clinics a round asks {asked}"
        f"; {cure}"
    )


def update_norm(update: Mapping[str, Array], model: Mapping[str, Array]) -> float:
    """Return the L2 norm of an update less the global model it began from (same names and shapes)."""
    squares = 0.0
    for name, tensor in update.items():
        for ours, theirs in zip(blocks(model[name]), blocks(tensor), strict=True):
            change = theirs.astype(np.float64) - ours
            squares += float(change @ change)
    return float(np.sqrt(squares))


def clipped(update: Tensors, model: Tensors, longest: float) -> Tensors:
    """Return an update, shortened towards the global model where it is further from it than `longest` (L2 norm)."""
    norm = update_norm(update, model)
    if norm <= longest:
        return update
    share = longest / norm
    return {
        name: (model[name] + share * (tensor.astype(np.float64) - model[name])).astype(np.float32)
        for name, tensor in update.items()
    }
