"""What may become of a damaged input: it is read, or refused by an error of one line; quickly, and in little memory."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import process_time

from melfed.common.data.images.problems import PictureError
from melfed.common.errors import LONGEST, MelfedError
from tests.fuzz.targets import Target

SECONDS = 5.0
"""Processor time of one case, at most."""
PATIENCE = 120
"""Seconds after which a case that hangs is interrupted."""
MOST_BYTES = 1 << 30
"""Memory that one case may take beyond what the process had: the largest picture that is decoded needs a part of it."""


class HangError(BaseException):
    """A case does not end."""


class CaseError(AssertionError):
    """A case that was read or refused, but not as it should be."""


@dataclass
class Tally:
    """What became of the cases of a target."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    largest: int = 0


class _Named:
    """Says of whatever is raised in it how to have it again."""

    def __init__(self, target: Target, number: int) -> None:
        self.how = f"python -m tests.fuzz --target {target.name} --first {number} --cases 1"

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            error.add_note(self.how)


def check(target: Target, folder: Path, cases: int, first: int = 0) -> Tally:
    """Try cases of a target by their numbers; each follows from the target's name and the number alone.

    Raises:
        Exception: whatever a reader raised that is not for a user, CaseError, or HangError; each with the command that
        gives it again.
    """
    tally = Tally()
    for number in range(first, first + cases):
        with _Named(target, number):
            _try(target, Random(f"{target.name} {number}"), folder, tally)
    return tally


def _try(target: Target, random: Random, folder: Path, tally: Tally) -> None:
    made = target.make(random)
    before, started = _peak(reset=True), process_time()
    try:
        with _patience():
            target.read(made, folder)
        tally.read += 1
    except (MelfedError, PictureError) as error:
        tally.refused += 1
        text = str(error)
        if len(text.splitlines()) != 1 or len(text) > LONGEST:
            raise CaseError(f"no error of one line: {text[:LONGEST]!r}") from error
    seconds, grown = process_time() - started, _peak() - before
    tally.slowest, tally.largest = max(tally.slowest, seconds), max(tally.largest, grown)
    if seconds > SECONDS:
        raise CaseError(f"{seconds:.1f} s of processor time, more than {SECONDS:g}")
    if grown > MOST_BYTES:
        raise CaseError(f"{grown >> 20} MiB of memory, more than {MOST_BYTES >> 20}")


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    def hang(*_: object) -> None:
        raise HangError(f"it does not end within {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, hang)
    left = signal.alarm(PATIENCE)  # pytest's own limit for a test goes on afterwards
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.alarm(left)


def _peak(*, reset: bool = False) -> int:
    """Return the most memory that this process has had (`reset`: from now on), bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
