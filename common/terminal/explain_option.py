"""What both commands that score single pictures take to explain one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from melfed.common.errors import DataError

ExplainOption = Annotated[
    Path | None,
    typer.Option(
        metavar="OUT.png",
        help="Of one image, write it beside the same with what moved the answer up in red; it shows skin.",
        show_default=False,
    ),
]


def one_to_explain(images: Sequence[Path], out: Path | None) -> None:
    """Check that an explanation is asked of a single image. Raises DataError."""
    if out is not None and len(images) != 1:
        raise DataError(f"--explain {out}: {len(images)} images are named; name one")
