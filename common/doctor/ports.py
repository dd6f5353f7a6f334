"""Who listens on a TCP port of this machine, by the system's list: nothing is bound or connected to find out."""

import contextlib
from collections.abc import Mapping
from typing import Final

import psutil

from melfed.common.doctor.steps import Finding, bad, doubtful, good

OURS: Final = ("melfed-", "melfed.client.cli.main", "melfed.server.cli.main", "flower-", "flwr-", "nginx")
"""How the name of a program, or of a module, of one of melfed's processes begins."""


def ports(wanted: Mapping[str, int]) -> Finding:
    """Judge ports that this side's processes listen on: free, or held by melfed already.

    Args:
        wanted: port by what it is for.
    """
    if len(set(wanted.values())) < len(wanted):
        return bad(f"a port is named twice: {_listed(wanted)}", "give each its own port in the configuration")
    holders = {what: holder for what, port in wanted.items() if (holder := listener(port)) is not None}
    foreign = {what: wanted[what] for what, holder in holders.items() if holder and not _is_ours(holder)}
    unknown = {what: wanted[what] for what, holder in holders.items() if not holder}
    if foreign:
        return bad(f"held by another program: {_listed(foreign)}", "stop it, or set other ports in the configuration")
    if unknown:
        return doubtful(
            f"held by another user's process: {_listed(unknown)}",
            "if melfed does not run as that user, set other ports in the configuration",
        )
    state = "melfed holds some of them" if holders else "free"
    return good(f"{_listed(wanted)}: {state}")


def listener(port: int) -> tuple[str, ...] | None:
    """Return the command line of the process that listens on a TCP port; empty where it is hidden, None without one."""
    found = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    holders = [each.pid for each in found if each.laddr[1:] == (port,)]
    for process in filter(None, holders):
        with contextlib.suppress(psutil.Error):  # it ended, or is another user's
            return tuple(psutil.Process(process).cmdline())
    return () if holders else None


def _is_ours(command: tuple[str, ...]) -> bool:
    # Program, or interpreter with program or -m module: later arguments may be anything. nginx writes a sentence.
    names = (argument.partition(" ")[0].rpartition("/")[2] for argument in command[:5])
    return any(name.startswith(OURS) for name in names)


def _listed(wanted: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {port}" for what, port in wanted.items())
