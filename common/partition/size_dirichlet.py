"""size_dirichlet: each clinic receives a share of all groups drawn from Dir(α, …, α) (Li et al. 2021, arXiv
2102.02079), whatever their labels.
"""

import numpy as np

from melfed.common.partition.scheme import Dealt, Owners, SchemeOptions, by_shares


def _deal(dealt: Dealt, clinics: int, options: SchemeOptions, generator: np.random.Generator) -> Owners:
    return by_shares(len(dealt.positive), generator.dirichlet(np.full(clinics, options.alpha)), generator)


DEAL = _deal
