"""size_zipf: the k-th clinic's share of all groups is proportional to k^-α, whatever their labels."""

import numpy as np

from melfed.common.partition.scheme import by_rank

DEAL = by_rank(lambda rank, options: -options.alpha * np.log(rank))
