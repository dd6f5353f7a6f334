"""Who listens on a TCP port of this machine: read from /proc, since nothing is to be bound or connected for it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from melfed.common.doctor.steps import Finding, bad, doubtful, good, skipped

OURS: Final = ("melfed-", "melfed.client.cli.main", "melfed.server.cli.main", "flower-", "flwr-", "nginx")
"""How the name of a program, or of a module, of one of melfed's processes begins."""

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"


def ports(wanted: Mapping[str, int]) -> Finding:
    """Judge ports that this side's processes listen on: free, or held by melfed already.

    Args:
        wanted: port by what it is for.
    """
    if len(set(wanted.values())) < len(wanted):
        return bad(f"a port is named twice: {_listed(wanted)}", "give each its own port in the configuration")
    if not (_PROC / "net" / "tcp").exists():
        return skipped("this system does not tell who listens")
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
    inodes = set(_inodes(port))
    if not inodes:
        return None
    for descriptor in _PROC.glob("[0-9]*/fd/*"):
        try:
            target = str(descriptor.readlink())
            if target.startswith("socket:[") and target[8:-1] in inodes:
                command = (descriptor.parent.parent / "cmdline").read_bytes()
                return tuple(command.decode("utf-8", "replace").rstrip("\0").split("\0"))
        except OSError:
            continue  # the process ended, or is another user's
    return ()


def _inodes(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _is_ours(command: tuple[str, ...]) -> bool:
    # Program, or interpreter with program or -m module: later arguments may be anything. nginx writes a sentence.
    names = (argument.partition(" ")[0].rpartition("/")[2] for argument in command[:5])
    return any(name.startswith(OURS) for name in names)


def _listed(wanted: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {port}" for what, port in wanted.items())
