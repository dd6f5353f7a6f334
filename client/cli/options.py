"""What the clinic's commands share: how the configuration is found."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from melfed.client.config.clinic import ClinicConfig

_WHERE = "The clinic's clinic.yaml; else MELFED_CLINIC, ./clinic.yaml, /etc/melfed/clinic.yaml."
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=_WHERE, show_default=False)]
ConfigArgument = Annotated[Path | None, typer.Argument(metavar="[CLINIC.YAML]", help=_WHERE, show_default=False)]


def clinic(*named: Path | None, complete: bool = True) -> "ClinicConfig":
    """Return the clinic's configuration.

    Args:
        named: what the command line names: option or argument.
        complete: whether name, coordinator and data must be in it.

    Raises:
        PolicyError: it is not found, or wrong.
    """
    from melfed.client.config.clinic import find_clinic, read_clinic

    paths = [path for path in named if path is not None]
    if len(paths) > 1:
        raise typer.BadParameter("name clinic.yaml once", param_hint="--config")
    return read_clinic(find_clinic(paths[0] if paths else None), complete=complete)
