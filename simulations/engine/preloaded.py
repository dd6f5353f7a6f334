"""What the process that workers are forked from imports, so that none of them has to.

The first optimiser of a process imports some eight hundred modules of torch (its compiler), which takes seconds.
"""

import os
import sys
from importlib.machinery import ModuleSpec

import torch

from melfed.simulations.engine import local_worker
from melfed.simulations.engine.fork_server import MAIN

__all__ = ["local_worker"]

torch.optim.SGD([torch.zeros(1)])

# A worker takes a script for run already that is its own `__main__`: so it is not run again in each of them.
_kind, _, _main = os.environ.get(MAIN, "").partition(" ")
if _kind == "path":
    sys.modules["__main__"].__file__ = _main
elif _kind == "name":
    sys.modules["__main__"].__spec__ = ModuleSpec(_main, None)
