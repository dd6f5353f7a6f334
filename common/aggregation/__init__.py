"""Aggregation: how a round's updates become one. Rules that false updates cannot lead astray are a file each.

A rule is a module with `RULE`, and its name is what `federation.robust` states; without one clinics are weighted by
their images (`weighted_mean.py`, which holds one sum instead of all updates).
"""

from typing import Final

from melfed.common.aggregation.rule import RobustRule
from melfed.common.registry import entries

RULES: Final[dict[str, RobustRule]] = dict(entries(__name__, __path__, "RULE"))
"""Every robust rule by its name."""
