"""The clinic's audit logs: that of the worker, and that of the processes that carry messages."""

from collections.abc import Iterator
from heapq import merge
from pathlib import Path

from melfed.client.config.clinic import ClinicConfig
from melfed.common.audit.log import Row, read_log
from melfed.common.errors import StorageError


def names(here: ClinicConfig) -> dict[Path, str]:
    """Return what each log is called."""
    return {here.audit_log: "worker", here.messenger_audit_log: "messenger"}


def logs(here: ClinicConfig) -> list[Path]:
    """Return the logs that are there. Raises StorageError where there is none, or this user may not look."""
    try:
        there = [path for path in names(here) if path.exists()]
    except PermissionError as error:
        raise StorageError(f"{error.filename}: this user may not read it; run this as root") from None
    if not there:
        raise StorageError(f"{here.audit_log}: there is no audit log yet; it begins with the first event")
    return there


def records(here: ClinicConfig) -> Iterator[Row]:
    """Yield the records of all logs, in the order of their times; `log` names whose each is. Raises StorageError."""
    called = names(here)

    def named(path: Path) -> Iterator[Row]:
        return ({**row, "log": called[path]} for row in read_log(path))

    return merge(*map(named, logs(here)), key=lambda row: str(row.get("time", "")))
