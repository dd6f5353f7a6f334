"""The round loop: ask clinics, check and aggregate what they answer as it arrives, checkpoint, evaluate.

The validation of a round's model comes back with the next round's training replies (and that of the last with the final
evaluation), so a round costs one message down and one up a clinic. So a study that stops early
(`melfed.server.federation.early_stop`) knows of a round's validation when the next one has been trained.

Who takes part is in `melfed.server.federation.members`, what is believed in `melfed.server.federation.reply_checks`,
how clinics are asked in `melfed.server.federation.channel`, and what a killed process finds again in
`melfed.server.runs.checkpoints` and `melfed.server.federation.pending_replies`.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import cast

import numpy as np

from melfed.common.audit.events import Event
from melfed.common.errors import DataError, RunError
from melfed.common.messages import EVALUATE, TRAIN
from melfed.common.metrics.noisy_histogram import Histogram, plus, pooled
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.step_plan import rate_sum
from melfed.common.tensors import (
    Array,
    PackedTensors,
    TensorError,
    Tensors,
    check_tensors,
    is_finite,
    packed_in,
    shapes,
    to_bytes,
)
from melfed.server.aggregation.mean import RoundMean, ServerOptimizer, tail_average
from melfed.server.federation.channel import OFFLINE, Channel
from melfed.server.federation.context import Conduct, standing
from melfed.server.federation.early_stop import best_of, chosen, in_words, observed
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

    def add(self, name: str, update: Update, pooled: Histogram | None) -> None:
        """Add one clinic's update; `pooled` is the sum of all histograms with its own."""
        if update.validation is not None:
            self.validation[name], self.pooled = update.validation, pooled
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
        self._packed, self._model = PackedTensors(b""), Tensors()

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
            state = self._start(channel, state)
            for number in range(state.round + 1, rounds + 1):
                if best_of(state).ends(self.study.federation.stop):
                    break
                state = self._round(channel, number, state)
            self.outcome = self._end(channel, state)

    def _begin(self) -> Checkpoint:
        """Return the state to go on from."""
        state = find_state(self.folder, self.study.digest, self.observer.noticed, first=0)
        if state is None:
            state = Checkpoint(0, self.study.digest, self.initial, {})
            save_checkpoint(self.folder.checkpoints, state)
        else:
            self.members.record(Event.RUN_RESUMED, round=state.round, flower_run=self.terms.flower_run)
        check_tensors(state.model, shapes(self.initial))
        self.initial = {}  # a round holds models enough
        state = self._packed_as_it_is_sent(state)
        self.folder.forget_after(state.round, validated=best_of(state).seen >= state.round)
        if self.terms.deployed:
            change_state(self.folder.path, round=state.round)
        return state

    def _start(self, _channel: Channel, state: Checkpoint) -> Checkpoint:
        """Return the state that the next round begins at; here, as it is."""
        return state

    def _packed_as_it_is_sent(self, state: Checkpoint) -> Checkpoint:
        """Pack a state's model for its request; return the state with views of that, so that it is in memory once."""
        if self.terms.deployed:
            self._packed = packed_in(self.folder.path, state.model)
        else:
            self._packed = PackedTensors(to_bytes(state.model), state.model)  # other processes may be sent it as it is
        self._model = {name: np.asarray(self._packed[name], np.float32) for name in state.model}
        return replace(state, model=self._model)

    def _as_sent(self, model: Tensors) -> Mapping[str, Array]:
        """Return a model for a request: packed, where it is that of the last state."""
        return cast(Mapping[str, Array], self._packed) if model is self._model else model

    def _round(self, channel: Channel, number: int, state: Checkpoint) -> Checkpoint:
        """Train one round; return the state after it, checkpointed."""
        started = monotonic()
        optimizer = ServerOptimizer(self.study.federation, state.optimizer)
        total, cohort = self._collect(channel, number, state.model, optimizer.sent(state.model))
        self.members.need_quorum(len(total.answered), len(cohort), total.absent)
        self._record_validation(state, number - 1, total.pooled, total.validation)
        state = observed(self.study.federation, state, number - 1, total.pooled)
        whole = self.members.most_weight(self.members.counts)
        weight = total.mean.weight
        model = optimizer.ended(state.model, total.mean, min(weight / max(whole, 1), 1.0))
        self._check_finite(number, model, optimizer.state)
        average = tail_average(self.study.federation, number, state.average, model)
        seconds = monotonic() - started
        loss = None if self.study.privacy else math.fsum(total.losses) / weight
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
        after = Checkpoint(number, self.study.digest, model, optimizer.state, average, state.best, state.stop)
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
        return self._packed_as_it_is_sent(after)

    def _collect(self, channel: Channel, number: int, model: Tensors, sent: Tensors) -> tuple[_Training, list[str]]:
        """Add up a round's answers, those that were kept on disk first; return their sum, and the round's clinics.

        Args:
            channel: to the clinics.
            number: of the round.
            model: the global one.
            sent: what the clinics are sent: the model, and what the algorithm sends besides.
        """
        kept: dict[str, Update] = {}
        if self.terms.deployed:
            self.members.refresh(channel, number)
            kept = self._kept(number, model)
        cohort = sorted({*self.members.cohort(number), *kept})
        mean = self._mean(number, model, cohort)
        total = _Training(mean, self.study.privacy is not None)
        self.observer.round_started(number, cohort)
        for name, update in kept.items():
            self._take(total, name, update, plus(total.pooled, update.validation))
            self.observer.replied(name, None)
        asked = self.members.nodes_of([name for name in cohort if name not in kept])
        self._note_absent(total.absent, set(cohort) - kept.keys() - set(asked.values()))
        content = channel.request(number, self.study, self.members.intake.run, self._as_sent(sent))
        total.bytes_down = channel.size(content) * (len(asked) + len(kept))
        asking = Asking(self.members, self.members.needed(len(cohort)), len(kept))
        begun = self._as_sent(model)
        for reply in self.members.ask(channel, TRAIN, asked, content, asking):
            name = asked[reply.node]
            try:
                update = self.members.intake.update(reply, number, self.members.counts[name], begun)
                self._packed.rest()  # it is in its file, for whoever is asked again
                # Before it is kept: what the sums cannot hold would end this process, and every one that goes on.
                mean.check(update.tensors, update.weight)
                together = plus(total.pooled, update.validation)
            except USELESS as error:
                total.bytes_up += reply.size
                total.absent.note(name, reply, error)
            else:
                if self.terms.deployed:
                    self.pending.keep(number, name, update)
                self._take(total, name, update, together)
                asking.answered += 1
                del update  # before the next one is read: a large model's would be in memory twice
            self.members.tell(reply, name, total.absent)
        return total, cohort

    def _mean(self, number: int, model: Tensors, names: Collection[str]) -> RoundMean:
        """Return an empty mean of a round's updates, for these clinics."""

        def of_clinic(weight: int) -> float:
            return rate_sum(self.study, weight, number)

        return RoundMean(self.study.federation, model, self.members.most_weight(names), of_clinic)

    def _kept(self, number: int, model: Tensors) -> dict[str, Update]:
        """Return what is on disk; nothing where it has no sum, whatever version believed it: all are asked again."""
        kept = self.pending.kept(number, model)
        try:
            pooled([update.validation for update in kept.values() if update.validation is not None])
            mean = self._mean(number, model, kept)
            for name, update in kept.items():
                mean.check(update.tensors, update.weight)
                if update.weight > self.members.most_weight([name]):
                    raise DataError(f"clinic {name} weighs more than it says")
        except (DataError, TensorError):
            self.pending.clear()
            return {}
        return kept

    def _take(self, total: _Training, name: str, update: Update, together: Histogram | None) -> None:
        total.add(name, update, together)
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
            if not is_finite(tensor):
                self.pending.clear()
                raise RunError(
                    f"{self.folder.path}: after round {number} {name} is not finite; "
                    "begin a new run with a lower training.learning_rate or federation.server_learning_rate"
                )

    def _record_validation(
        self, state: Checkpoint, number: int, total: Histogram | None, validation: dict[str, Histogram]
    ) -> None:
        """Write down how the model after a round does; a state that has seen that was resumed with it on record."""
        if total is not None and number >= 1 and number > best_of(state).seen:
            self.folder.append_validation(number, total, validation)

    def _end(self, channel: Channel, state: Checkpoint) -> Outcome:
        """Have the clinics evaluate the final model: where the study stops early, that of the best round.

        The last planned round's model may be the best, which its evaluation says; where it is not, the best round's is
        evaluated as well. In between a checkpoint keeps what was found, so that nothing is asked a third time.
        """
        spec, last = self.study.federation, self.study.federation.rounds
        if spec.stop is None:
            return self._evaluate(channel, state.average or state.model, last, state)[0]
        if best_of(state).seen < last == state.round and not best_of(state).ends(spec.stop):
            outcome, pooled = self._evaluate(channel, state.model, last, state)
            state = observed(spec, state, last, pooled)
            save_checkpoint(self.folder.checkpoints, state)
            if chosen(state).round == last:
                return replace(outcome, chosen={"": chosen(state)})
        found = chosen(state)
        if found.round < last:
            self.observer.noticed(in_words(spec.stop, found, last))
        number = last if found.round == last or best_of(state).seen < last else last + 1
        outcome, _ = self._evaluate(channel, state.best or state.model, number)
        return replace(outcome, chosen={"": found})

    def _evaluate(
        self, channel: Channel, model: Tensors, number: int, state: Checkpoint | None = None
    ) -> tuple[Outcome, Histogram | None]:
        """Have every clinic evaluate a model; return what comes of it, and the pooled validation.

        Args:
            channel: to the clinics.
            model: the final one, or one that may be it.
            number: of the request: the last round, or the next one of a second evaluation.
            state: where the validation is of the last round, the state after it; it is then written down.
        """
        members = self.members
        if self.terms.deployed:
            self.pending.clear()  # a process that was killed after the last checkpoint may have left them
            members.refresh(channel, number)
        clinics, absent = sorted(members.counts), Absent()
        asked = members.nodes_of(clinics)
        self.observer.evaluating(clinics)
        self._note_absent(absent, set(clinics) - set(asked.values()))
        content = channel.request(number, self.study, self.members.intake.run, self._as_sent(model))
        test: dict[str, Histogram] = {}
        validation: dict[str, Histogram] = {}
        sums: tuple[Histogram | None, Histogram | None] = None, None
        subgroups: dict[str, Histogram] = {}
        local: dict[str, Histogram] = {}
        asking = Asking(members, members.needed(len(clinics)))
        for reply in members.ask(channel, EVALUATE, asked, content, asking):
            name = asked[reply.node]
            try:
                evaluation = members.intake.evaluation(reply, number, members.counts[name], model)
                both = plus(sums[0], evaluation.test), plus(sums[1], evaluation.validation)
                by_cell = {cell: pooled([*_there(subgroups, cell), h]) for cell, h in evaluation.subgroups.items()}
            except USELESS as error:
                absent.note(name, reply, error)
            else:
                sums, subgroups = both, by_cell
                test[name] = evaluation.test
                validation[name] = evaluation.validation
                if evaluation.local is not None:
                    local[name] = evaluation.local
                asking.answered += 1
                if evaluation.account is not None:
                    members.accounts[name] = evaluation.account
            members.tell(reply, name, absent)
        members.need_quorum(len(test), len(clinics), absent)
        if state is not None:
            self._record_validation(state, number, sums[1], validation)
        accounts = dict(sorted(members.accounts.items()))
        outcome = Outcome(
            {"": model},
            members.counts,
            dict(sorted(test.items())),
            accounts=accounts,
            validation=sums[1],
            subgroups=subgroups,
            local=dict(sorted(local.items())),
        )
        return outcome, sums[1]


def _there(found: Mapping[str, Histogram], cell: str) -> list[Histogram]:
    return [found[cell]] if cell in found else []
