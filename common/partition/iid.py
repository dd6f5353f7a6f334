"""iid: groups are shuffled and dealt out in turn."""

import numpy as np

from melfed.common.partition.scheme import Dealt, Owners, SchemeOptions


def _deal(dealt: Dealt, clinics: int, _options: SchemeOptions, generator: np.random.Generator) -> Owners:
    return generator.permutation(np.arange(len(dealt.positive)) % clinics)


DEAL = _deal
