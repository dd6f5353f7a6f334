"""From the file of a comparison to its cells: one study each, all of them checked before any is trained."""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from melfed.common.errors import StudyError
from melfed.common.study.file import override_content, set_key, stated_study, study_content
from melfed.common.study.in_force import idle_keys
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import Choice, resolve
from melfed.common.yaml_file import Places
from melfed.simulations.comparison.spec import SEEDS, ComparisonFile, Varied

MOST_CELLS = 500
LONGEST_NAME = 60

Settings = Mapping[str, Any]
Configuration = tuple[tuple[str, str], ...]
"""What tells a configuration from others: (key, value as text) pairs; cells of one differ in seeds alone."""


@dataclass(frozen=True)
class Cell:
    """One study of a comparison.

    Attributes:
        name: of its run folder; it ends with the study's digest, so that the same study has the same folder.
        group: the named part of the grid that it is of; "" where there are none.
        settings: the varied keys with their values, in the order of the file.
        study: as it is run.
        choices: what `privacy.recipe: auto` chose.
    """

    name: str
    group: str
    settings: Settings
    study: StudyProtocol
    choices: tuple[Choice, ...] = ()

    @property
    def configuration(self) -> Configuration:
        """Group and varied keys but seeds."""
        own = [("group", self.group)] if self.group else []
        return (*own, *((key, shown(value)) for key, value in self.settings.items() if key not in SEEDS))

    @property
    def replicate(self) -> tuple[object, ...]:
        """The values of the varied seeds; the study's own where none is varied."""
        seeds = tuple(value for key, value in self.settings.items() if key in SEEDS)
        return seeds or (self.study.seed,)


def shown(value: object) -> str:
    """Return a key's value in words.

    >>> shown("full"), shown(0.5), shown(float("inf")), shown(True), shown(["mel"])
    ('full', '0.5', '∞', 'true', '["mel"]')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isinf(value):
        return "∞"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, default=str, ensure_ascii=False)


def label(configuration: Configuration) -> str:
    """Return a configuration in one line: values where they speak for themselves, else with their key.

    >>> label((("model.backbone", "vgg16"), ("model.pretrained", "true")))
    'vgg16, pretrained true'
    """
    bare = {"group", "model.backbone", "federation.mode", "federation.algorithm"}
    words = [value if key in bare else f"{key.rpartition('.')[2]} {value}" for key, value in configuration]
    return ", ".join(words) or "the study"


def cells_of(file: ComparisonFile, overrides: Sequence[str] = (), most: int = MOST_CELLS) -> tuple[Cell, ...]:
    """Return the cells of a comparison, in the order of the file.

    Args:
        file: the comparison.
        overrides: `key.path=value` items that change the study of all cells.
        most: cells at the most.

    Raises:
        StudyError: there are none, or too many; a key does not exist, a value is not allowed, a cell cannot be, or two
            are one and the same study.
    """
    grids = list(_grids(file))
    _check_exclusions(file, [varied for _, varied, _ in grids])
    number = sum(math.prod(len(values) for values in varied.values()) for _, _, varied in grids)
    if number > 100 * most:  # of which exclusions could hardly leave few enough
        raise StudyError(f"{file.path}: {number} cells, and {most} are allowed; vary less, or allow more by --most")
    wanted = [
        (group, settings, varied)
        for group, varied, values in grids
        for settings in _product(values)
        if not _excluded(file, group, {**varied.set, **settings})
    ]
    if not wanted:
        raise StudyError(f"{file.path}: a grid without cells; give each key of vary a value, and exclude less")
    if len(wanted) > most:
        raise StudyError(
            f"{file.path}: {len(wanted)} cells, and {most} are allowed; vary less, or allow more by --most"
        )
    content, places = _base(file, overrides)
    cells = tuple(_cell(file, content, places, group, settings, varied) for group, settings, varied in wanted)
    _refuse_twins(file, cells)
    return cells


def _grids(file: ComparisonFile) -> Iterator[tuple[str, Varied, Mapping[str, tuple[Any, ...]]]]:
    """Yield each part of the grid: its name, what it sets, and what varies in it."""
    whole = file.comparison
    for name, own in (whole.groups or {"": Varied()}).items():
        both = {**whole.set, **own.set}
        varied = {key: values for key, values in {**whole.vary, **own.vary}.items() if key not in own.set}
        yield name, Varied(set=both, vary=varied), varied


def _product(values: Mapping[str, tuple[Any, ...]]) -> Iterator[Settings]:
    for chosen in product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def _check_exclusions(file: ComparisonFile, grids: Sequence[Varied]) -> None:
    known = {"group", *(key for grid in grids for key in (*grid.set, *grid.vary))}
    for rule in file.comparison.exclude:
        for key in rule:
            if key not in known:
                raise StudyError(
                    f"{file.place('exclude')}: exclude names {key}, which the comparison neither sets nor varies; "
                    f"known here: {', '.join(sorted(known))}"
                )


def _excluded(file: ComparisonFile, group: str, settings: Settings) -> bool:
    found = {"group": group, **settings}

    def fits(key: str, wanted: object) -> bool:
        value = found.get(key, _ABSENT)
        return bool(value == wanted) or (isinstance(wanted, list) and value in wanted)

    return any(all(fits(key, wanted) for key, wanted in rule.items()) for rule in file.comparison.exclude)


_ABSENT = object()


def _base(file: ComparisonFile, overrides: Sequence[str]) -> tuple[dict[str, Any], Places]:
    """Return the keys of the study that all cells begin with, and where each stands."""
    study = file.comparison.study
    if isinstance(study, str):
        return study_content(file.path.parent / study, overrides)
    content = copy.deepcopy(study)
    return content, override_content(content, dict(file.under("study")), overrides)


def _cell(
    file: ComparisonFile, base: Mapping[str, Any], places: Places, group: str, settings: Settings, varied: Varied
) -> Cell:
    """Return the cell of some settings. Raises StudyError where it cannot be."""
    content = copy.deepcopy(dict(base))
    changed: set[str] = set()
    for key, value in {**varied.set, **settings}.items():
        path, place = tuple(key.split(".")), _place(file, group, key)
        if not all(path):
            raise StudyError(f"{place}: {key!r} is no path of a key; write it as model.backbone")
        set_key(content, path, copy.deepcopy(value), place)
        places = {other: at for other, at in places.items() if other[: len(path)] != path}
        for depth in range(1, len(path)):
            places.setdefault(path[:depth], place)
        places[path] = place
        changed.add(place)
    _without_bound(content)
    words = ", ".join(f"{key} {shown(value)}" for key, value in settings.items()) or "the only one"
    which = f"{file.path}: cell {f'{group}: ' if group else ''}{words}"
    stated = stated_study(content, places, which, changed.__contains__)
    study, choices = resolve(stated)
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join((group, *map(shown, settings.values())))).strip("-.")
    return Cell(f"{slug[:LONGEST_NAME] or study.name}-{study.digest[:10]}", group, settings, study, choices)


def _place(file: ComparisonFile, group: str, key: str) -> str:
    for where in (("groups", group, "vary"), ("groups", group, "set"), ("vary",), ("set",)):
        if (*where, key) in file.places:
            return file.places[(*where, key)]
    return str(file.path)


def _without_bound(content: dict[str, Any]) -> None:
    """Write ε = ∞ as the protocol has it: no noise, and all else as stated."""
    privacy = content.get("privacy")
    if isinstance(privacy, dict) and privacy.get("epsilon") == math.inf:
        privacy |= {"epsilon": None, "noise_multiplier": 0.0}


def _refuse_twins(file: ComparisonFile, cells: Sequence[Cell]) -> None:
    """Raise StudyError where two cells would train one and the same: what differs has no effect in them."""
    known: dict[str, Cell] = {}
    for cell in cells:
        content = json.loads(cell.study.canonical())
        for key in idle_keys(cell.study):
            section, _, name = key.partition(".")
            content.get(section, {}).pop(name, None)
        twin = known.setdefault(json.dumps({**content, "name": ""}, sort_keys=True), cell)
        if twin is not cell:
            both = {key for c in (twin, cell) for key in c.settings}
            differ = sorted(key for key in both if twin.settings.get(key) != cell.settings.get(key))
            what = f"{', '.join(differ)} has no effect in them" if differ else "their groups set the same"
            raise StudyError(
                f"{file.path}: cells {twin.name[:-11]} and {cell.name[:-11]} are one and the same study: {what}; "
                "exclude one of them"
            )


def cell_folder(out: Path, cell: Cell) -> Path:
    """Return where a cell's run folder is."""
    return out / "cells" / cell.name
