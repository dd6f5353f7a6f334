"""size_square: the k-th clinic's share of all groups is proportional to k², whatever their labels."""

import numpy as np

from melfed.common.partition.scheme import by_rank

DEAL = by_rank(lambda rank, _: 2 * np.log(rank))
