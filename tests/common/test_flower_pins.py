"""What is pinned of Flower: all that the product imports or replaces, as it was when melfed was made for it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import flwr
import pytest

from melfed.common import flower_pins
from melfed.common.errors import ServiceError
from melfed.common.flower_pins import FLOWER, PINS, changed, check_flower

REPOSITORY = Path(__file__).resolve().parents[2]
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation"}
"""What Flower documents for users; messages of its protocol (flwr.proto) are read by name, and checked by mypy."""


def imported() -> Iterator[tuple[str, str]]:
    """File and `module:name` of every internal of Flower that the product imports."""
    for path in (
        path for package in ("client", "server", "simulations") for path in sorted((REPOSITORY / package).rglob("*.py"))
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("flwr."):
                continue
            module = str(node.module)
            if module not in PUBLIC and not module.startswith("flwr.proto"):
                for alias in node.names:
                    yield path.name, f"{module}:{alias.name}"


@pytest.mark.parametrize("process", sorted(PINS))
def test_flower_is_the_one_that_melfed_was_made_for(process: str) -> None:
    assert flwr.__version__ == FLOWER
    assert not dict(changed(PINS[process]))
    check_flower(process)


@pytest.mark.parametrize("process", sorted(PINS))
@pytest.mark.parametrize(
    "part",
    ["flwr.superlink.main:create_app", "flwr.supercore.sql_mixin:SQLITE_PRAGMAS", "flwr.x:y", "flwr:app.nothing"],
    ids=["changed", "another value", "no module", "no part"],
)
def test_another_flower_is_refused_by_name(process: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_pins, "PINS", {process: {**PINS[process], part: "0" * 16}})
    with pytest.raises(ServiceError, match=f"^Flower's {part} is not the one that melfed's {process} was made for; .*"):
        check_flower(process)


def test_every_internal_that_is_imported_is_pinned() -> None:
    pinned = {reference for parts in PINS.values() for reference in parts}
    # Of a module or a class, those parts may be pinned that are used.
    wholes = {reference.partition(":")[0] for reference in pinned} | {name.rpartition(".")[0] for name in pinned}
    pinned.add("flwr.simulation.ray_transport.ray_actor:ClientAppActor")  # Ray makes it of a class that is pinned
    missing = [pair for pair in imported() if not {pair[1], pair[1].replace(":", ".")} & (pinned | wholes)]
    assert not missing


def test_what_superlink_runs_with_is_looked_at_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from melfed.server.flower import superlink

    monkeypatch.setattr(flower_pins, "PINS", {name: {"flwr.x:y": "0" * 16} for name in PINS})
    monkeypatch.setattr(superlink, "become_quiet", lambda config: None)
    for run in (superlink.run_superlink, superlink.run_superexec):
        with pytest.raises(ServiceError, match=r"^Flower's flwr\.x:y "):
            run(object())  # type: ignore[arg-type]
    with pytest.raises(ServiceError, match=r"^Flower's flwr\.x:y "):
        superlink.run_serverapp(object(), "token", 1)  # type: ignore[arg-type]
