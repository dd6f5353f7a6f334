"""A comparison of many runs, from its file to its report: `melfed-sim compare`, and notebooks."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from melfed.common.errors import StudyError

if TYPE_CHECKING:
    from melfed.common.data.tables.rows import ReadOptions
    from melfed.simulations.comparison.comparison import Progresses
    from melfed.simulations.comparison.finding import Finding


def compare(
    comparison: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    most: int | None = None,
    overrides: Sequence[str] = (),
    weights_dir: str | Path | None = None,
    cache: str | Path | None = None,
    ray_address: str | None = None,
    options: "ReadOptions | None" = None,
    quiet: bool = False,
) -> "Finding":
    """Run every cell of a grid over a study's keys, and compare them on the same test patients.

    Args:
        comparison: the file with the grid (docs/compare.md).
        data: folder of labelled images; None where the study renders its own.
        out: folder to make, with a run folder a cell, tables and the report; None: `comparisons/NAME-TIME`.
        resume: go on with the comparison in `out`: interrupted, failed and new cells are run.
        most: cells at the most; None: 500.
        overrides: `key.path=value` items that change the study of all cells.
        weights_dir: folder of pretrained weights.
        cache: where decoded images and stored features are kept; None: melfed's own cache.
        ray_address: of a running Ray cluster.
        options: what a person says about the folder that its tables do not say.
        quiet: tell nothing on stderr; else each cell as it ends, and the time that is left.

    Returns:
        What was found: `results` (of each cell), `compared` (all pairs), `failed`. Cells that fail do not end it.

    Raises:
        MelfedError: in one line, before anything is trained.
    """
    from melfed.common.data.tables.rows import ReadOptions
    from melfed.simulations.comparison import comparison as whole
    from melfed.simulations.comparison.grid import MOST_CELLS
    from melfed.simulations.engine.fork_server import prepare

    if resume and out is None:
        raise StudyError("resume goes on with the comparison in out; name its folder")
    if ray_address is None:
        prepare()  # its imports go on beside those of this process
    file = Path(comparison)
    request = whole.Request(
        file,
        None if data is None else Path(data),
        Path(out) if out else folder_of(file),
        resume,
        MOST_CELLS if most is None else most,
        tuple(overrides),
        ray_address,
        None if weights_dir is None else Path(weights_dir),
        None if cache is None else Path(cache),
        options or ReadOptions(),
    )
    with _watch(quiet) as watch:
        return whole.compare(request, watch)


def folder_of(comparison: Path) -> Path:
    """Return a new folder's name for a comparison, in the current folder."""
    return Path("comparisons") / f"{comparison.stem}-{datetime.now(UTC).astimezone():%Y%m%d-%H%M%S}"


def _watch(quiet: bool) -> "AbstractContextManager[Progresses]":
    from melfed.simulations.api.compare_progress import CompareProgress, Silent

    return nullcontext(Silent()) if quiet else CompareProgress()
