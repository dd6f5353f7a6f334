"""Options that several commands share mean the same in each."""

import typer

from melfed.simulations.cli.main import app


def test_commands_that_read_images_have_the_same_options_for_it() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    weights = {"run", "audit", "compare", "ladder"}
    assert {name for name, each in commands.items() if "--weights-dir" in [p.opts[0] for p in each.params]} >= weights
    shared = {"--data", "--cache", "--diagnosis", "--shared-ids", "--classes", "--links", "--set"}
    for name in ("run", "partition", "audit", "compare"):
        found = {each.opts[0]: each.help for each in commands[name].params}
        assert shared <= set(found), name
        for option in shared - {"--set"}:
            assert found[option] == next(p.help for p in commands["run"].params if p.opts[0] == option)
