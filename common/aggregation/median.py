"""Median of each value: Yin et al. (arXiv 1803.01498). Of n updates it stands fewer than n / 2 false ones.

>>> from melfed.common.study.protocol import FederationSpec
>>> updates = [{"head": np.array([value], np.float32)} for value in (1.0, 2.0, 1e9)]
>>> RULE.mean(updates, FederationSpec())["head"].tolist()
[2.0]
"""

from collections.abc import Sequence

import numpy as np

from melfed.common.aggregation.blocks import by_value
from melfed.common.aggregation.rule import RobustRule, RuleOptions
from melfed.common.tensors import Tensors


def _mean(updates: Sequence[Tensors], _: RuleOptions) -> Tensors:
    return by_value(updates, lambda block: np.asarray(np.median(block, axis=0), np.float64))


RULE = RobustRule(_mean)
