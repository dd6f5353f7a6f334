"""What the commands share: how the configuration is found, tables of metrics, progress bars."""

import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from melfed.common.errors import ServerConfigError, StorageError
from melfed.common.terminal.console import errors

if TYPE_CHECKING:
    from melfed.common.metrics.exact import EvaluationMetrics, Interval
    from melfed.server.config import ServerConfig

INTERVAL_WIDTH = len("(0.123–0.456)")

SYSTEM_FILE = Path("/etc/melfed/server.yaml")
"""Where the kit's install.sh links it."""

_WHERE = f"The coordinator's server.yaml; else MELFED_SERVER, ./server.yaml, {SYSTEM_FILE}."
ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=_WHERE, show_default=False)]
ConfigArgument = Annotated[Path | None, typer.Argument(metavar="[SERVER.YAML]", help=_WHERE, show_default=False)]


def named_once(*named: Path | None) -> Path | None:
    """Return the file that an argument or an option names. Raises typer.BadParameter where both do."""
    paths = [path for path in named if path is not None]
    if len(paths) > 1:
        raise typer.BadParameter("name server.yaml once", param_hint="--config")
    return paths[0] if paths else None


def configuration(path: Path | None) -> "ServerConfig":
    """Return the coordinator's configuration: the file named, $MELFED_SERVER, ./server.yaml, or that of /etc/melfed.

    Raises:
        ServerConfigError: there is none, or something is wrong with it.
    """
    from melfed.server.config import read_server

    variable, here = os.environ.get("MELFED_SERVER"), Path("server.yaml")
    named = path or (Path(variable) if variable else None)
    found = named or next((file for file in (here, SYSTEM_FILE) if file.is_file()), None)
    if found is None:
        where = f"neither {here.absolute()} nor {SYSTEM_FILE} exists, and $MELFED_SERVER is not set"
        raise ServerConfigError(f"{where}; name the server's configuration with --config server.yaml")
    if not found.is_file():
        source = "" if path else "$MELFED_SERVER: "
        raise ServerConfigError(f"{source}{found}: no such file; name the server's configuration, server.yaml")
    return read_server(found)


def own_configuration(path: Path | None) -> "ServerConfig":
    """Return the configuration, for a command that writes into the server's folders.

    What root writes there is root's alone, and a server that runs as another user could not read it.

    Raises:
        ServerConfigError: as `configuration`.
        StorageError: the folders belong to another user.
    """
    config = configuration(path)
    for folder in (config.state, config.runs):
        owner = folder.stat().st_uid if folder.exists() else os.geteuid()
        if owner != os.geteuid():
            user = _user_name(owner)
            how = f"as root, runuser -u {user} -- {sys.argv[0]} ..."
            raise StorageError(f"{folder}: belongs to {user}; give this command as that user ({how})")
    return config


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # of a container, or of another machine
        return str(number)


def interval_text(interval: "Interval") -> str:
    """Return a value with its 95 % interval, or "undefined"."""
    if interval.value is None:
        return "undefined"
    return f"{interval.value:.3f} ({interval.low:.3f}–{interval.high:.3f})"


def metrics_cells(metrics: "EvaluationMetrics") -> tuple[str, str]:
    """Return AUROC and AUPRC as table cells."""
    return interval_text(metrics.auroc), interval_text(metrics.auprc)


def metrics_table(metrics: "EvaluationMetrics", group: str) -> Table:
    """Return a table of one evaluation, a row a quantity."""
    table = Table(title=f"{metrics.images} images of {metrics.patients} {group}s, {metrics.melanomas} melanomas")
    table.add_column("")
    table.add_column("value (95 % interval)", justify="right")
    rows: dict[str, Interval] = {
        "AUROC": metrics.auroc,
        "AUPRC": metrics.auprc,
        "balanced accuracy at 0.5": metrics.balanced_accuracy,
        "sensitivity at 90 % specificity": metrics.sensitivity_at_90_specificity,
        "sensitivity at 95 % specificity": metrics.sensitivity_at_95_specificity,
    }
    for name, interval in rows.items():
        table.add_row(name, interval_text(interval))
    for name, value in {"Brier score": metrics.brier, "calibration error (ECE)": metrics.ece}.items():
        table.add_row(name, "undefined" if value is None else f"{value:.4f}")
    return table


class Bar:
    """A progress bar with a `(done, total)` callback; nothing is drawn when quiet, or where stderr is no terminal."""

    def __init__(self, text: str, *, quiet: bool = False) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=errors, transient=True, disable=quiet or not errors.is_terminal)
        self._task = self._progress.add_task(text, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def path_of_run(run: Path) -> Path:
    """Return a run's folder: as named, else, where this is the server, that of its run of this name."""
    from melfed.server.runs.names import NAME

    if run.exists() or not NAME.fullmatch(str(run)):
        return run
    try:
        return configuration(None).runs / run
    except ServerConfigError:
        return run
