"""size_exponential: the k-th clinic's share of all groups is proportional to e^k, whatever their labels."""

from melfed.common.partition.scheme import by_rank

DEAL = by_rank(lambda rank, _: rank)
