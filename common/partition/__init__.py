"""How groups are dealt out to virtual clinics: the schemes of `partition.by` but `source`, a file each.

A scheme is a module with `DEAL`, and its name is what `partition.by` states. It draws from the generator that it is
given, and from nothing else. The partitioners of flwr-datasets deal out rows, and would have to be wrapped in a table
of groups, with `datasets` and PyArrow behind it, for the few lines of NumPy that the sampling takes; they are therefore
written here.
"""

from typing import Final

from melfed.common.partition.scheme import Deal
from melfed.common.registry import entries

SCHEMES: Final[dict[str, Deal]] = dict(entries(__name__, __path__, "DEAL"))
"""Every scheme by its name."""
