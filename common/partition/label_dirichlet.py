"""label_dirichlet: of the groups with a positive image, and of those without, each clinic receives a share drawn from
Dir(α, …, α) (Yurochkin et al. 2019, arXiv 1905.12022). A small α skews labels, and sizes too.
"""

import numpy as np

from melfed.common.partition.scheme import Dealt, Owners, SchemeOptions, by_shares


def _deal(dealt: Dealt, clinics: int, options: SchemeOptions, generator: np.random.Generator) -> Owners:
    owners = np.empty(len(dealt.positive), dtype=np.intp)
    for label in (False, True):
        chosen = dealt.positive == label
        shares = generator.dirichlet(np.full(clinics, options.alpha))
        owners[chosen] = by_shares(int(np.sum(chosen)), shares, generator)
    return owners


DEAL = _deal
