"""The researcher: virtual clinics on one machine or a Ray cluster.

`from melfed.simulations import Study, compare, simulate` is what a notebook begins with. Importing it loads no
torch: that comes with the first run.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from melfed.simulations.api.compare import compare as compare
    from melfed.simulations.api.run import Run as Run
    from melfed.simulations.api.simulate import simulate as simulate
    from melfed.simulations.api.study import Study as Study

_FROM: Final = {
    "Run": "melfed.simulations.api.run",
    "compare": "melfed.simulations.api.compare",
    "Study": "melfed.simulations.api.study",
    "simulate": "melfed.simulations.api.simulate",
}
"""What a notebook imports from here, and the module of each, which is loaded when it is asked for."""

__all__ = ["Run", "Study", "compare", "simulate"]


def __getattr__(name: str) -> object:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FROM[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM})
