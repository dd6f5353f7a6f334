"""What a comparison has found: what its report is made of."""

from dataclasses import dataclass

from melfed.server.runs.summary import DataSummary
from melfed.simulations.comparison.pairs import Compared, Ranking
from melfed.simulations.comparison.results import Result
from melfed.simulations.comparison.spec import Comparison
from melfed.simulations.comparison.statistics.centres import Centre


@dataclass(frozen=True)
class Timing:
    """What a comparison took, seconds.

    Attributes:
        whole: from the command to the report.
        cells: of all cells that were run now, each by itself, one after the other.
        at_a_time: how many ran beside each other.
        run: how many cells were run now.
    """

    whole: float
    cells: float
    at_a_time: int
    run: int


@dataclass(frozen=True)
class Finding:
    """A finished comparison: what its report is made of.

    Attributes:
        comparison: what was asked.
        keys: what varies, in the order of the file.
        results: of all cells, and of the warm starts that they begin at.
        compared: all pairs.
        ranking: mean ranks.
        data: what the cells were given; of the first, where they differ.
        timing: what it took.
        centres: that the comparison names, with what there is of each.
    """

    comparison: Comparison
    keys: tuple[str, ...]
    results: tuple[Result, ...]
    compared: Compared
    ranking: Ranking
    data: DataSummary
    timing: Timing
    centres: tuple[Centre, ...] = ()

    @property
    def failed(self) -> list[Result]:
        """Cells that have no result."""
        return [result for result in self.results if result.metrics is None]
