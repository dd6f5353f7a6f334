"""Who listens on a TCP port of this machine, by the system's list: nothing is bound or connected to find out.

melfed's name does not do: a second federation on one machine has processes of the same names, and a hospital may well
have an nginx of its own. A process is this side's where it, or one that it descends from, was started with this side's
configuration.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from melfed.common.doctor.steps import Finding, bad, doubtful, good

PROGRAMS: Final = ("melfed-", "melfed.client.cli.main", "melfed.server.cli.main")
"""How the name of a program, or of a module, of one of melfed's commands begins."""


def ports(wanted: Mapping[str, int], configuration: Path) -> Finding:
    """Judge ports that this side's processes listen on: free, or held by them already.

    Args:
        wanted: port by what it is for.
        configuration: the file that this side's processes are started with.
    """
    if len(set(wanted.values())) < len(wanted):
        return bad(f"a port is named twice: {_listed(wanted)}", "give each its own port in the configuration")
    held = {what: found for what, port in wanted.items() if (found := listeners(port)) is not None}
    foreign = {
        what: f"{wanted[what]} by {_named(found)}"
        for what, found in held.items()
        if found and not any(is_of(process, configuration) for process in found)
    }
    unknown = {what: wanted[what] for what, found in held.items() if not found}
    if foreign:
        return bad(f"held by another program: {_listed(foreign)}", "stop it, or set other ports in the configuration")
    if unknown:
        return doubtful(
            f"held by another user's process: {_listed(unknown)}",
            "if melfed does not run as that user, set other ports in the configuration",
        )
    state = "melfed holds some of them" if held else "free"
    return good(f"{_listed(wanted)}: {state}")


def listeners(port: int) -> tuple[psutil.Process, ...] | None:
    """Return the processes that listen on a TCP port; empty where they are hidden, None without one."""
    found = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    holders = [each.pid for each in found if each.laddr[1:] == (port,)]
    processes = []
    for pid in dict.fromkeys(filter(None, holders)):
        with contextlib.suppress(psutil.Error):  # it ended, or is another user's
            processes.append(psutil.Process(pid))
    return tuple(processes) if holders else None


def is_of(process: psutil.Process, configuration: Path) -> bool:
    """Tell whether a process, or one that it descends from, is a command of melfed with this configuration."""
    with contextlib.suppress(psutil.Error):  # it ended, or is another user's
        return any(_has(each, configuration) for each in (process, *process.parents()))
    return False


def _has(process: psutil.Process, configuration: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        # Program, or interpreter with program or -m module: later arguments may be anything.
        if not any(Path(argument).name.startswith(PROGRAMS) for argument in command[:5]):
            return False
        paths = [Path(process.cwd()) / (each.partition("=")[2] or each) for each in command]
        named = [path for path in paths if path.suffix == ".yaml"]
        # A kit's folder stands for the configuration in it, and the current folder's is taken where none is named.
        kits = [path / configuration.name for path in (*paths, Path(process.cwd()))]
        return configuration.resolve() in [path.resolve() for path in named or kits]
    return False


def _named(processes: tuple[psutil.Process, ...]) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{processes[0].name()} (pid {processes[0].pid})"
    return "a process that has ended since"


def _listed(wanted: Mapping[str, object]) -> str:
    return ", ".join(f"{what} {port}" for what, port in wanted.items())
