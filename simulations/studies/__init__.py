"""Studies that ship with melfed."""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
"""Where their files are."""
