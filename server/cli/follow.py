"""Following a run from the command line: by its `state.json`, and by what the audit log says of it."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from melfed.common.audit.events import Event
from melfed.common.errors import CancelledError, QuorumError, RunError
from melfed.common.locks import is_held
from melfed.common.terminal.times import span
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.request import read_request
from melfed.server.runs.state import NAME as STATE
from melfed.server.runs.state import RunState, read_state

PAUSE = 0.3
SILENT_SECONDS = 5.0
"""After so long without a word it is said what is waited for."""
PATIENT_SECONDS = 60.0
"""What is waited for so long is said again as seldom."""
LOOK_SECONDS = 2.0
UNDER_WAY = frozenset({"queued", "running"})
QUORUM = "quorum: "
"""How the reason of a run begins that too few clinics answered."""

Row = dict[str, Any]


@dataclass
class Tail:
    """The rows of the audit log that are about one run, from where the log stands when this is made."""

    log: Path
    run: str

    def __post_init__(self) -> None:
        self._at = self.log.stat().st_size if self.log.exists() else 0

    def rows(self) -> Iterator[Row]:
        """Yield what was added since the last look; a line that is being written waits for the next."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._at)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # damage is for `melfed-server log verify` to tell
                continue
            if isinstance(row, dict) and row.get("run") == self.run:
                yield row


class Spoken:
    """What whoever follows a run was told last: with a line where nothing was said for `SILENT_SECONDS`.

    What goes on for longer than `PATIENT_SECONDS` is said again each time these have passed: rounds may take days.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._last, self._at, self._since = "", clock(), clock()

    def told(self) -> None:
        """Something else was said."""
        self._at = self._clock()

    def doing(self, words: str) -> None:
        """Say what is waited for, where nothing was said for a while."""
        now = self._clock()
        if words != self._last:
            self._last, self._since = words, now
        waited = now - self._since
        if words and now - self._at >= (SILENT_SECONDS if waited < PATIENT_SECONDS else PATIENT_SECONDS):
            self._at = now
            self._say(f"{words}, for {span(waited)}" if waited >= SILENT_SECONDS else words)


@dataclass
class Others:
    """Other runs under way with the same clinics: a clinic computes one answer at a time, in the order it is asked.

    Attributes:
        runs: the folder of the runs' folders.
        own: the run that is followed.
        say: is given a line when another begins or ends.
    """

    runs: Path
    own: RunFolder
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _looked: float = -math.inf

    def look(self) -> None:
        """See, every few seconds, which runs there are."""
        if self.clock() - self._looked < LOOK_SECONDS:
            return
        self._looked = self.clock()
        found = dict(others(self.runs, self.own))
        for name in found.keys() - self.known.keys():
            shared = ", ".join(found[name])
            self.say(f"run {name} is under way as well: at {shared} the rounds of both wait for each other, in turn")
        for name in self.known.keys() - found.keys():
            self.say(f"run {name} is over: its clinics compute for this run alone")
        self.known = found


def others(runs: Path, own: RunFolder) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the other runs that are under way, with the clinics that they share with this one, by name."""
    mine = set(read_request(own.path).clinics)
    for path in sorted(runs.glob(f"*/{STATE}")) if runs.is_dir() else ():
        folder = path.parent
        if folder.name == own.path.name:
            continue
        try:
            state = read_state(folder)
            asked = read_request(folder).clinics if state and state.wanted and state.status in UNDER_WAY else ()
        except RunError:  # of which `status` tells
            continue
        if shared := tuple(sorted(mine.intersection(asked))):
            yield folder.name, shared


def words_of(row: Row) -> tuple[str, str] | None:
    """Return what a row of the audit log says to whoever follows the run, and its style; None: nothing new."""
    clinic, reason = row.get("clinic", ""), row.get("reason") or "no reason given"
    told = {
        Event.CLINIC_DECLINED.id: (f"clinic {clinic} declines: {reason}", "cyan"),
        Event.UPDATE_REFUSED.id: (f"clinic {clinic}: its answer is not used: {reason}", "yellow"),
        Event.CLINIC_LOST.id: (f"clinic {clinic} is lost: {reason}", "yellow"),
        Event.CLINIC_RETURNED.id: (f"clinic {clinic} is back", "green"),
        Event.CLINIC_LATE.id: (f"clinic {clinic} joins", "green"),
        Event.CLINIC_VERSION.id: (
            f"clinic {clinic} runs melfed {row.get('version')}, this server {row.get('expected')}",
            "yellow",
        ),
        Event.RUN_RESUMED.id: (f"goes on after round {row.get('round')}", "yellow"),
    }
    if row.get("id") == Event.ROUND_FINISHED.id:
        return _round_words(row), ""
    return told.get(int(row.get("id", 0)))


def _round_words(row: Row) -> str:
    parts = [f"round {row.get('round')}: {row.get('seconds', 0):.1f} s, answered: {', '.join(row.get('answered', []))}"]
    parts += [f"{kind}: {', '.join(names)}" for kind in ("declined", "failed") if (names := row.get(kind))]
    return "; ".join(parts)


@dataclass
class Presence:
    """Whether the daemon runs; `say` is told each time that this changes. Runs go on without whoever follows them."""

    lock: Path
    say: Callable[[bool], None]
    runs: bool = True

    def look(self) -> None:
        """See whether it runs. Raises StorageError where that cannot be found out."""
        runs = is_held(self.lock)
        if runs != self.runs:
            self.runs = runs
            self.say(runs)


def follow(
    folder: RunFolder, tail: Tail, tell: Callable[[Row], None], see: Callable[[RunState], None], pause: float = PAUSE
) -> RunState:
    """Wait for the end of a run.

    Args:
        folder: the run's.
        tail: of the audit log, made before the run was asked for.
        tell: is given each row about the run.
        see: is given the run's state, several times a second.
        pause: seconds between two looks.

    Raises:
        RunError: the run's state cannot be read.
    """
    while True:
        state = read_state(folder.path)
        if state is None:
            raise RunError(f"{folder.path}: its {STATE} is gone; the run folder is damaged, start a new run")
        for row in tail.rows():
            tell(row)
        see(state)
        if state.status not in UNDER_WAY and not state.wanted:
            return state
        time.sleep(pause)


def raise_unless_completed(name: str, state: RunState) -> None:
    """Raise the error of a run that has not completed, whose class gives the exit code."""
    if state.status == "completed":
        return
    reason = state.reason or "no reason is on record"
    if state.status == "stopped":
        raise CancelledError(f"run {name}: stopped after round {state.round}: {reason}")
    kind = QuorumError if reason.startswith(QUORUM) else RunError
    raise kind(f"run {name}: failed after round {state.round}: {reason}")
