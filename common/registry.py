"""What can be added by adding a file: each module of a package that states a constant of a name is an entry.

Aggregation rules (`common/aggregation`), server optimisers (`common/optimizers`), algorithms (`common/algorithms`),
partition schemes (`common/partition`), readers of tables (`common/data/readers`) and backbones
(`common/model/backbones`) are found so.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any


def entries(package: str, path: list[str], constant: str) -> Iterator[tuple[str, Any]]:
    """Yield the name of each module that states the constant, and its value, by name.

    Args:
        package: full name of the package.
        path: the package's `__path__`.
        constant: such as `RULE`; modules without it help the others.
    """
    for name in sorted(found.name for found in pkgutil.iter_modules(path)):
        module: ModuleType = import_module(f"{package}.{name}")
        if hasattr(module, constant):
            yield name, getattr(module, constant)
