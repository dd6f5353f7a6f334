"""Scores for tests that are easier to read as probabilities."""

import numpy as np
import numpy.typing as npt


def logit(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Logits of probabilities; infinite ones of 0 and 1, and 0 of 0.5."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return np.log(p) - np.log1p(-p)
