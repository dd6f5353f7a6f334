"""Multi-Krum: the mean of the updates that Krum trusts most, all but `robust_byzantine` (arXiv 1703.02757)."""

from collections.abc import Sequence

from melfed.common.aggregation.krum import mean_of_first, needed
from melfed.common.aggregation.rule import RobustRule, RuleOptions
from melfed.common.tensors import Tensors


def _mean(updates: Sequence[Tensors], options: RuleOptions) -> Tensors:
    false = options.robust_byzantine
    return mean_of_first(updates, false, len(updates) - false)


RULE = RobustRule(_mean, needed)
