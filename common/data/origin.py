"""Where a data folder's pictures come from: rendered, or taken of people.

It is a property of the folder, said by a file that whoever rendered the pictures put there; no row of the table has a
part in it, so that it tells nothing of a patient. Numbers of rendered pictures say nothing about anybody, and every
report of them has to say so, wherever the folder was.
"""

from pathlib import Path
from typing import Final

SYNTHETIC_NOTICE: Final = "SYNTHETIC.txt"
"""Name of the file beside the table that says that all pictures of its folder are rendered."""


def is_synthetic(folder: Path) -> bool:
    """Tell whether a data folder says of itself that its pictures are rendered."""
    return (folder / SYNTHETIC_NOTICE).exists()
