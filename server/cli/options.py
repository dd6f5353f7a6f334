"""What the commands share: errors in one line, tables of metrics, progress bars."""

import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from melfed.common.errors import MelfedError, ServerConfigError, StorageError

if TYPE_CHECKING:
    from melfed.common.metrics.exact import EvaluationMetrics, Interval
    from melfed.server.config import ServerConfig

INTERVAL_WIDTH = len("(0.123–0.456)")
NOTICE = "melfed is research software and no medical device: do not use it for diagnosis."

# No markup and no emoji: a clinic may be called "[a]", and "study.yaml:100:" is not a hundred points.
errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
output = Console(highlight=False, markup=False, emoji=False)
if not output.is_terminal and "COLUMNS" not in os.environ:
    # A file or a pipe has no width that a table must fit into.
    output.width = 120


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        output.print(f"melfed {version('melfed')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print melfed's version.")
]

SYSTEM_FILE = Path("/etc/melfed/server.yaml")
"""Where the kit's install.sh links it."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", help=f"server.yaml; else $MELFED_SERVER, ./server.yaml, {SYSTEM_FILE}.", show_default=False
    ),
]


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


def run_app(app: typer.Typer) -> None:
    """Run a command; a `MelfedError` becomes one line on stderr and its exit code (Ctrl-C is Typer's: 130)."""
    try:
        app()
    except PermissionError as error:  # of whoever looks into folders that are the server's alone
        if error.filename is None:
            raise
        _leave(StorageError(f"{error.filename}: {error.strerror}; see who owns it, and give this command as that user"))
    except MelfedError as error:
        _leave(error)


def _leave(error: MelfedError) -> None:
    errors.print(f"error: {error}", style="red", markup=False)
    sys.exit(error.exit_code)


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
    """A progress bar with a `(done, total)` callback; nothing is drawn where stderr is no terminal."""

    def __init__(self, text: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
        self._task = self._progress.add_task(text, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
