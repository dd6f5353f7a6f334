"""A head that is solved from noised moments, which each clinic releases once: all of a study, or where rounds begin.

In a study of one round clinics evaluate the head, and are asked two questions in all. Where gradient rounds follow
(`federation.start: one_round`) they begin at it. All of it is in a clinic's plan before its first answer. A clinic that
answers days later, or after this process has died, is as good as any: releases stay in the run's folder, and whoever
has released is not asked again.
"""

from dataclasses import dataclass, field
from time import monotonic

from melfed.common.audit.events import Event
from melfed.common.messages import SUMMARISE
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors, check_tensors, shapes
from melfed.server.federation.channel import Channel
from melfed.server.federation.context import Conduct, standing
from melfed.server.federation.members import Absent, Asking
from melfed.server.federation.observer import Observer
from melfed.server.federation.reply_checks import USELESS
from melfed.server.federation.rounds import Rounds
from melfed.server.results.solved import NAME as SOLUTION
from melfed.server.results.solved import Solution, mark_evaluated, public_head, solve_run, write_solution
from melfed.server.runs.checkpoints import Checkpoint
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.releases import Release, Releases


@dataclass
class _Gathered:
    """What has been released so far."""

    releases: dict[str, Release]
    absent: Absent = field(default_factory=Absent)
    bytes_up: int = 0


class _Gathering(Rounds):
    """Rounds of which one gathers releases."""

    def __init__(
        self, study: StudyProtocol, folder: RunFolder, initial: Tensors, conduct: Conduct, observer: Observer
    ) -> None:
        super().__init__(study, folder, initial, conduct, observer)
        self.public = public_head(study, initial)

    def _gather(self, channel: Channel, number: int) -> tuple[_Gathered, int]:
        """Return the releases that are here and those that come, and how many clinics there are."""
        store = Releases(self.folder.releases, self.study.digest)
        if self.terms.deployed:
            self.members.refresh(channel, number)
        gathered = _Gathered(store.whole())
        for name, release in gathered.releases.items():
            self._count(gathered, name, release)
        clinics = sorted({*self.members.counts, *gathered.releases})
        self.observer.round_started(number, clinics)
        for name in gathered.releases:
            self.observer.replied(name, None)
        asked = self.members.nodes_of([name for name in clinics if name not in gathered.releases])
        self._note_absent(gathered.absent, set(clinics) - gathered.releases.keys() - set(asked.values()))
        content = channel.request(number, self.study, self.members.intake.run)
        asking = Asking(self.members, self.members.needed(len(clinics)), len(gathered.releases))
        for reply in self.members.ask(channel, SUMMARISE, asked, content, asking):
            name = asked[reply.node]
            try:
                release = self.members.intake.release(reply, self.members.counts[name])
            except USELESS as error:
                gathered.bytes_up += reply.size
                gathered.absent.note(name, reply, error)
            else:
                store.keep(name, release)
                gathered.releases[name] = release
                self._count(gathered, name, release)
                asking.answered += 1
            self.members.tell(reply, name, gathered.absent)
        return gathered, len(clinics)

    def _solve(self, channel: Channel, number: int) -> tuple[_Gathered, Solution]:
        """Return what was released, by clinic in the order of names, and the head of it. Raises QuorumError."""
        gathered, asked = self._gather(channel, number)
        gathered.releases = dict(sorted(gathered.releases.items()))
        self.members.need_quorum(len(gathered.releases), asked, gathered.absent)
        return gathered, solve_run(self.study, gathered.releases, public=self.public)

    def _count(self, gathered: _Gathered, name: str, release: Release) -> None:
        gathered.bytes_up += release.size
        self.members.counts.setdefault(name, release.counts)
        if release.account is not None:
            self.members.accounts[name] = release.account


class OneRound(_Gathering):
    """Conducts a study of one round."""

    def join(self, channel: Channel) -> None:
        """Add the releases of the expected clinics to a finished run; nobody else is asked.

        The head is solved anew, and what was evaluated is taken back: it was another one.

        Raises:
            QuorumError: one of them did not release anything.
            StoppedError, StorageError, RunError: as `conduct`.
        """
        with standing(self.folder, self.terms):
            self._begin()
            self.members.gather(channel)
            gathered, _ = self._gather(channel, 1)
            late = set(self.members.names.values())
            self.members.need_quorum(len(late & gathered.releases.keys()), self.terms.clinics, gathered.absent)
            from melfed.server.results.post_processing import replace_head  # with torch, which else nobody here needs

            replace_head(self.folder, self.study, gathered.releases)
            self.members.remember()

    def _round(self, channel: Channel, number: int, _state: Checkpoint) -> Checkpoint:
        """Gather the moments, and solve the head; return the state with it, checkpointed."""
        started = monotonic()
        gathered, solution = self._solve(channel, number)
        releases = gathered.releases
        model = solution.tensors()
        self._check_finite(number, model, {})
        seconds = monotonic() - started
        failed, declined = (dict(sorted(reasons.items())) for reasons in self._absent(gathered.absent))
        clinics = {
            name: {"train_loss": None, "weight": release.counts.weight(self.study), "bytes_up": release.size}
            for name, release in releases.items()
        }
        self.folder.append(
            {
                "event": "round",
                "round": number,
                "train_loss": None,
                "seconds": seconds,
                "bytes_up": gathered.bytes_up,
                "bytes_down": 0,
                "answered": list(releases),
                "failed": failed,
                "declined": declined,
                "clinics": clinics,
            }
        )
        write_solution(self.folder, solution)
        after = Checkpoint(number, self.study.digest, model, {})
        self._save(after)
        self.members.record(
            Event.ROUND_FINISHED,
            round=number,
            answered=list(releases),
            failed=list(failed),
            declined=list(declined),
            seconds=round(seconds, 3),
            bytes_up=gathered.bytes_up,
            bytes_down=0,
        )
        self.observer.round_finished(number, None, seconds)
        return after

    def _end(self, channel: Channel, state: Checkpoint) -> Outcome:
        outcome, _ = self._evaluate(channel, state.model, self.study.federation.rounds, state)
        mark_evaluated(self.folder)
        return outcome


class SolvedStart(_Gathering):
    """Conducts a study whose gradient rounds begin at a solved head."""

    def _start(self, channel: Channel, state: Checkpoint) -> Checkpoint:
        """Gather the moments and solve the head, unless rounds were begun with one; return the state that has it.

        `solution.json` is written last: from then on rounds begin at this head, whoever releases later. Killed before,
        the run solves it again from the same releases, and no clinic has seen the first.
        """
        if state.round or (self.folder.path / SOLUTION).exists():
            return state
        started = monotonic()
        gathered, solution = self._solve(channel, 1)
        model = {**state.model, **solution.tensors()}
        check_tensors(model, shapes(state.model))
        self._check_finite(0, model, {})
        after = Checkpoint(0, self.study.digest, model, {})
        self._save(after)
        self.folder.append(
            {
                "event": "start",
                "round": 0,
                "seconds": monotonic() - started,
                "bytes_up": gathered.bytes_up,
                "answered": list(gathered.releases),
            }
        )
        write_solution(self.folder, solution)
        return after
