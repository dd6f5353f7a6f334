"""Federated algorithms that change more than the server's step: a file each, named by `federation.algorithm`.

An algorithm is a module with `ALGORITHM` (`melfed.common.algorithms.algorithm`). The server optimisers of
`melfed.common.optimizers`, which leave the clinics' part as it is, are stated by the same key.
"""

from typing import Final

from melfed.common.algorithms.algorithm import Algorithm
from melfed.common.registry import entries

ALGORITHMS: Final[dict[str, Algorithm]] = dict(entries(__name__, __path__, "ALGORITHM"))
"""Every algorithm by its name."""

PLAIN: Final = Algorithm()
"""That of all others: clinics train the model that came, and send it back whole."""


def algorithm_of(name: str) -> Algorithm:
    """Return what a name of `federation.algorithm` changes; nothing of a server optimiser."""
    return ALGORITHMS.get(name, PLAIN)
