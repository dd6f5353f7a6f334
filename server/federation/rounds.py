"""The round loop: ask clinics, check and aggregate what they answer as it arrives, checkpoint, evaluate.

The validation of a round's model comes back with the next round's training replies (and that of the last with the final
evaluation), so a round costs one message down and one up a clinic.

Who takes part is in `melfed.server.federation.members`, what is believed in `melfed.server.federation.reply_checks`,
how clinics are asked in `melfed.server.federation.channel`, and what a killed process finds again in
`melfed.server.runs.checkpoints` and `melfed.server.federation.pending_replies`.
"""

import math
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from melfed.common.audit.events import Event
from melfed.common.errors import DataError, RunError
from melfed.common.messages import EVALUATE, TRAIN
from melfed.common.metrics.noisy_histogram import Histogram, plus, pooled
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import TensorError, Tensors, check_tensors, shapes
from melfed.server.aggregation.mean import RoundMean, ServerOptimizer, tail_average
from melfed.server.federation.channel import OFFLINE, Channel
from melfed.server.federation.context import Conduct, standing
from melfed.server.federation.members import Absent, Asking, Members
from melfed.server.federation.observer import Observer
from melfed.server.federation.pending_replies import Pending
from melfed.server.federation.reply_checks import USELESS, Update
from melfed.server.runs.checkpoints import Checkpoint, save_checkpoint
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.resumed import find_state
from melfed.server.runs.state import change_state


@dataclass
class _Training:
    """What a round's replies add up to."""

    mean: RoundMean
    private: bool
    absent: Absent = field(default_factory=Absent)
    answered: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    validation: dict[str, Histogram] = field(default_factory=dict)
    pooled: Histogram | None = None
    clinics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0

    def add(self, name: str, update: Update) -> None:
        """Add one clinic's update."""
        if update.validation is not None:
            self.validation[name] = update.validation
            self.pooled = plus(self.pooled, update.validation)
        loss = None if self.private else update.loss
        self.clinics[name] = {"train_loss": loss, "weight": update.weight, "bytes_up": update.size}
        self.mean.add(name, update.tensors, update.weight)
        self.losses.append(update.loss * update.weight)
        self.bytes_up += update.size
        self.answered.append(name)


class Rounds:
    """Conducts one study with the clinics that a Flower channel reaches."""

    def __init__(
        self, study: StudyProtocol, folder: RunFolder, initial: Tensors, conduct: Conduct, observer: Observer
    ) -> None:
        self.study = study
        self.folder = folder
        self.initial = initial
        self.terms = conduct
        self.observer = observer
        self.members = Members(study, folder, conduct, observer)
        self.pending = Pending(folder.pending, study.digest)
        self.outcome: Outcome | None = None

    def conduct(self, channel: Channel) -> None:
        """Run all rounds and the final evaluation; the result is in `outcome`.

        A deployed run's `state.json` follows; `melfed.server.federation.context.completed` writes its last word, after
        the report.

        Raises:
            QuorumError: too few clinics answered. The last checkpoint stays, so the run can be resumed.
            StorageError: a checkpoint, an event or a clinic's answer could not be written; likewise.
            StoppedError: the run was told to stop; likewise.
            RunError: the run folder's checkpoints are of another study, or the model overflowed.
        """
        with standing(self.folder, self.terms):
            state = self._begin()
            self.members.gather(channel)
            rounds = self.study.federation.rounds
            self.observer.started(self.members.counts, state.round + 1, rounds)
            for number in range(state.round + 1, rounds + 1):
                state = self._round(channel, number, state)
            self.outcome = self._evaluate(channel, state.average or state.model)

    def _begin(self) -> Checkpoint:
        """Return the state to go on from."""
        state = find_state(self.folder, self.study.digest, self.observer.noticed, first=0)
        if state is None:
            state = Checkpoint(0, self.study.digest, self.initial, {})
            save_checkpoint(self.folder.checkpoints, state)
        else:
            self.members.record(Event.RUN_RESUMED, round=state.round, flower_run=self.terms.flower_run)
        check_tensors(state.model, shapes(self.initial))
        self.folder.forget_after(state.round)
        if self.terms.deployed:
            change_state(self.folder.path, round=state.round)
        return state

    def _round(self, channel: Channel, number: int, state: Checkpoint) -> Checkpoint:
        """Train one round; return the state after it, checkpointed."""
        started = monotonic()
        total, cohort = self._collect(channel, number, state.model)
        self.members.need_quorum(len(total.answered), len(cohort), total.absent)
        self._record_validation(number - 1, total.pooled, total.validation)
        optimizer = ServerOptimizer(self.study.federation, state.optimizer)
        model = optimizer.step(state.model, total.mean.mean())
        self._check_finite(number, model, optimizer.state)
        average = tail_average(self.study.federation, number, state.average, model)
        seconds = monotonic() - started
        loss = None if self.study.privacy else math.fsum(total.losses) / total.mean.weight
        failed, declined = (dict(sorted(reasons.items())) for reasons in self._absent(total.absent))
        self.folder.append(
            {
                "event": "round",
                "round": number,
                "train_loss": loss,
                "seconds": seconds,
                "bytes_up": total.bytes_up,
                "bytes_down": total.bytes_down,
                "answered": sorted(total.answered),
                "failed": failed,
                "declined": declined,
                "clinics": dict(sorted(total.clinics.items())),
            }
        )
        after = Checkpoint(number, self.study.digest, model, optimizer.state, average)
        self._save(after)
        self.members.record(
            Event.ROUND_FINISHED,
            round=number,
            answered=sorted(total.answered),
            failed=list(failed),
            declined=list(declined),
            seconds=round(seconds, 3),
            bytes_up=total.bytes_up,
            bytes_down=total.bytes_down,
        )
        self.observer.round_finished(number, loss, seconds)
        return after

    def _collect(self, channel: Channel, number: int, model: Tensors) -> tuple[_Training, list[str]]:
        """Add up a round's answers, those that were kept on disk first; return their sum, and the round's clinics."""
        kept: dict[str, Update] = {}
        if self.terms.deployed:
            self.members.refresh(channel, number)
            kept = self._kept(number, model)
        cohort = sorted({*self.members.cohort(number), *kept})
        mean = RoundMean(self.study.federation, model, self.members.most_weight(cohort))
        total = _Training(mean, self.study.privacy is not None)
        self.observer.round_started(number, cohort)
        for name, update in kept.items():
            self._take(total, name, update)
            self.observer.replied(name, None)
        asked = self.members.nodes_of([name for name in cohort if name not in kept])
        self._note_absent(total.absent, set(cohort) - kept.keys() - set(asked.values()))
        content = channel.request(number, self.study, self.members.intake.run, model)
        total.bytes_down = channel.size(content) * (len(asked) + len(kept))
        asking = Asking(self.members, self.members.needed(len(cohort)), len(kept))
        for reply in self.members.ask(channel, TRAIN, asked, content, asking):
            name = asked[reply.node]
            try:
                update = self.members.intake.update(reply, number, self.members.counts[name], model)
                # Before it is kept: what the sums cannot hold would end this process, and every one that goes on.
                mean.check(update.tensors)
                plus(total.pooled, update.validation)
            except USELESS as error:
                total.bytes_up += reply.size
                total.absent.note(name, reply, error)
            else:
                if self.terms.deployed:
                    self.pending.keep(number, name, update)
                self._take(total, name, update)
                asking.answered += 1
            self.members.tell(reply, name, total.absent)
        return total, cohort

    def _kept(self, number: int, model: Tensors) -> dict[str, Update]:
        """Return what is on disk; nothing where it has no sum, whatever version believed it: all are asked again."""
        kept = self.pending.kept(number, model)
        try:
            pooled([update.validation for update in kept.values() if update.validation is not None])
            mean = RoundMean(self.study.federation, model, self.members.most_weight(kept))
            for name, update in kept.items():
                mean.check(update.tensors)
                if update.weight > self.members.most_weight([name]):
                    raise DataError(f"clinic {name} weighs more than it says")
        except (DataError, TensorError):
            self.pending.clear()
            return {}
        return kept

    def _take(self, total: _Training, name: str, update: Update) -> None:
        total.add(name, update)
        if update.account is not None:
            self.members.accounts[name] = update.account

    def _note_absent(self, absent: Absent, names: set[str]) -> None:
        """Note the clinics that cannot be asked: those that are not let in any more, and those that are not there."""
        out = self.members.absent
        for name in sorted(names):
            kind, reason = absent.failed, out.failed.get(name, OFFLINE)
            if name in out.declined:
                kind, reason = absent.declined, out.declined[name]
            kind[name] = reason

    def _absent(self, absent: Absent) -> tuple[dict[str, str], dict[str, str]]:
        out = self.members.absent
        return out.failed | absent.failed, out.declined | absent.declined

    def _save(self, state: Checkpoint) -> None:
        """Make a round final. From the checkpoint on, the answers that it was made of do not count any more."""
        if self.terms.deployed:
            self.members.remember()
        save_checkpoint(self.folder.checkpoints, state)
        if self.terms.deployed:
            self.pending.clear()
            change_state(self.folder.path, round=state.round)

    def _check_finite(self, number: int, model: Tensors, optimizer: Tensors) -> None:
        """Refuse a model that overflowed; it would be the last checkpoint, and no clinic could go on from it.

        What it was made of is dropped: with the same answers, a run that is resumed could but fail in the same way.
        """
        for name, tensor in (model | optimizer).items():
            if not np.isfinite(tensor).all():
                self.pending.clear()
                raise RunError(
                    f"{self.folder.path}: after round {number} {name} is not finite; "
                    "begin a new run with a lower training.learning_rate or federation.server_learning_rate"
                )

    def _record_validation(self, number: int, total: Histogram | None, validation: dict[str, Histogram]) -> None:
        if number >= 1 and total is not None:
            self.folder.append_validation(number, total, validation)

    def _evaluate(self, channel: Channel, model: Tensors) -> Outcome:
        """Have every clinic evaluate the final model."""
        rounds, members = self.study.federation.rounds, self.members
        if self.terms.deployed:
            self.pending.clear()  # a process that was killed after the last checkpoint may have left them
            members.refresh(channel, rounds)
        clinics, absent = sorted(members.counts), Absent()
        asked = members.nodes_of(clinics)
        self.observer.evaluating(clinics)
        self._note_absent(absent, set(clinics) - set(asked.values()))
        content = channel.request(rounds, self.study, self.members.intake.run, model)
        test: dict[str, Histogram] = {}
        validation: dict[str, Histogram] = {}
        sums: tuple[Histogram | None, Histogram | None] = None, None
        asking = Asking(members, members.needed(len(clinics)))
        for reply in members.ask(channel, EVALUATE, asked, content, asking):
            name = asked[reply.node]
            try:
                evaluation = members.intake.evaluation(reply, rounds, members.counts[name], model)
                both = plus(sums[0], evaluation.test), plus(sums[1], evaluation.validation)
            except USELESS as error:
                absent.note(name, reply, error)
            else:
                sums = both
                test[name] = evaluation.test
                validation[name] = evaluation.validation
                asking.answered += 1
                if evaluation.account is not None:
                    members.accounts[name] = evaluation.account
            members.tell(reply, name, absent)
        members.need_quorum(len(test), len(clinics), absent)
        self._record_validation(rounds, sums[1], validation)
        accounts = dict(sorted(members.accounts.items()))
        return Outcome({"": model}, members.counts, dict(sorted(test.items())), accounts=accounts)
