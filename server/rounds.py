"""The round loop: ask clinics, check and aggregate what they answer as it arrives, checkpoint, evaluate.

The validation of a round's model comes back with the next round's training replies (and that of the last with the final
evaluation), so a round costs one message down and one up a clinic.
"""

import math
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from common.errors import DataError, DeclinedError, MelfedError, QuorumError, RunError, StudyError
from common.histogram import ScoreHistogram
from common.noisy_histogram import Histogram, NoisyHistogram, histogram_from_arrays, pooled
from common.protocol import StudyProtocol, validates
from common.seeds import seed_for
from common.tensors import TensorError, Tensors, check_tensors, shapes
from server import exchange
from server.aggregation import ServerOptimizer, WeightedMean, tail_average
from server.checkpoints import Checkpoint, last_checkpoint, save_checkpoint
from server.exchange import Channel, Reply
from server.observer import Counts, Observer
from server.outcome import Account, Outcome
from server.run_folder import RunFolder

# A clinic that claims more images than any hospital has would take over the weighted mean.
MAX_IMAGES = 10_000_000
MAX_LOSS = 1e12
MAX_NAME = 200
USELESS = (TensorError, DataError, StudyError, DeclinedError)
_HEAD = re.compile(r"[0-9a-f]{64}")


@dataclass
class _Training:
    """What a round's replies add up to."""

    mean: WeightedMean
    losses: list[float] = field(default_factory=list)
    validation: Histogram | None = None
    bytes_up: int = 0


@dataclass
class _Absent:
    """Clinics without a usable answer, with the reason of each: `declined` by their own policy, or `failed`."""

    failed: dict[str, str] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, reply: Reply, error: MelfedError) -> None:
        """Write down why a clinic's reply cannot be used."""
        kind = self.failed if reply.declined is None else self.declined
        kind[name] = exchange.one_line(str(error))

    def reasons(self) -> str:
        """Return all of it in one line."""
        rows = [f"{name}: {reason}" for name, reason in sorted(self.failed.items())]
        rows += [f"{name} declined: {reason}" for name, reason in sorted(self.declined.items())]
        return "; ".join(rows) or "no answer"


class Rounds:
    """Conducts one study with the clinics that a Flower grid reaches."""

    def __init__(
        self,
        study: StudyProtocol,
        folder: RunFolder,
        initial: Tensors,
        clinics: int,
        observer: Observer,
        stop: threading.Event,
    ) -> None:
        self.study = study
        self.stop = stop
        self.folder = folder
        self.initial = initial
        self.expected_clinics = clinics
        self.observer = observer
        self.names: dict[int, str] = {}
        self.counts: dict[str, Counts] = {}
        self.accounts: dict[str, Account] = {}
        self.absent = _Absent()
        self.outcome: Outcome | None = None

    def conduct(self, grid: Channel) -> None:
        """Run all rounds and the final evaluation; the result is in `outcome`.

        Raises:
            QuorumError: too few clinics answered. The last checkpoint stays, so the run can be resumed.
            StorageError: a checkpoint could not be written.
            RunError: the run folder's checkpoints are of another study, the model overflowed, or `stop` was set.
        """
        self._meet(grid)
        state = last_checkpoint(self.folder.checkpoints, self.study.digest)
        if state is None:
            state = Checkpoint(0, self.study.digest, self.initial, {})
            save_checkpoint(self.folder.checkpoints, state)
        check_tensors(state.model, shapes(self.initial))
        self.folder.forget_after(state.round)
        rounds = self.study.federation.rounds
        self.observer.started(self.counts, state.round + 1, rounds)
        for number in range(state.round + 1, rounds + 1):
            state = self._round(grid, number, state)
        self.outcome = self._evaluate(grid, state.average or state.model)

    def _meet(self, grid: Channel) -> None:
        """Wait for the clinics, and ask each for its name, its study and its counts."""
        deadline = monotonic() + self.study.federation.deadline_seconds
        nodes = sorted(grid.get_node_ids())
        while len(nodes) < self.expected_clinics and monotonic() < deadline:
            self._wait()
            nodes = sorted(grid.get_node_ids())
        content = exchange.request(0, self.study.digest, self.folder.identity)
        for reply in self._ask(grid, exchange.DESCRIBE, dict.fromkeys(nodes, ""), content):
            try:
                name, counts = self._introduction(reply)
            except USELESS as error:
                unknown = f"node {reply.node}"
                self.absent.note(unknown, reply, error)
                self._tell(unknown, self.absent)
                continue
            self.names[reply.node], self.counts[name] = name, counts
        self.names = dict(sorted(self.names.items(), key=lambda item: item[1]))
        self.counts = dict(sorted(self.counts.items()))
        self._need_quorum(len(self.names), self.expected_clinics, self.absent)

    def _introduction(self, reply: Reply) -> tuple[str, Counts]:
        _raise_refusal(reply)
        name, digest = reply.text("identity", "clinic"), reply.text("identity", "digest")
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise DataError(f"calls itself {name[:MAX_NAME]!r}; a name has 1 to {MAX_NAME} printable characters")
        if digest != self.study.digest:
            raise StudyError(f"clinic {name} holds study {digest[:12]}, not {self.study.digest[:12]}")
        if name in self.counts:
            raise StudyError(f"a clinic named {name} takes part already")
        counts = {}
        for part in ("train", "validation", "test"):
            for what in ("images", "positives", "groups"):
                number = reply.number("counts", f"{part}_{what}")
                if not (0 <= number <= MAX_IMAGES and number == int(number)):
                    raise DataError(f"clinic {name} counts {number:g} {part} {what}")
                counts[f"{part}_{what}"] = int(number)
        return name, counts

    def _round(self, grid: Channel, number: int, state: Checkpoint) -> Checkpoint:
        """Train one round; return the state after it, checkpointed."""
        started = monotonic()
        cohort = self._cohort(number)
        self.observer.round_started(number, list(cohort.values()))
        content = exchange.request(number, self.study.digest, self.folder.identity, state.model)
        total, answered, absent = _Training(WeightedMean()), [], _Absent()
        for reply in self._ask(grid, exchange.TRAIN, cohort, content):
            name = cohort[reply.node]
            try:
                self._add(total, reply, name, number)
            except USELESS as error:
                absent.note(name, reply, error)
            else:
                answered.append(name)
            self._tell(name, absent)
        self._need_quorum(len(answered), len(cohort), absent)
        self._record_validation(number - 1, total.validation)
        optimizer = ServerOptimizer(self.study.federation, state.optimizer)
        model = optimizer.step(state.model, total.mean.mean())
        self._check_finite(number, model, optimizer.state)
        average = tail_average(self.study.federation, number, state.average, model)
        seconds = monotonic() - started
        loss = None if self.study.privacy else math.fsum(total.losses) / total.mean.weight
        self.folder.append(
            {
                "event": "round",
                "round": number,
                "train_loss": loss,
                "seconds": seconds,
                "bytes_up": total.bytes_up,
                "bytes_down": exchange.size(content) * len(cohort),
                "answered": sorted(answered),
                "failed": dict(sorted((self.absent.failed | absent.failed).items())),
                "declined": dict(sorted((self.absent.declined | absent.declined).items())),
            }
        )
        after = Checkpoint(number, self.study.digest, model, optimizer.state, average)
        save_checkpoint(self.folder.checkpoints, after)
        self.observer.round_finished(number, loss, seconds)
        return after

    def _add(self, total: _Training, reply: Reply, name: str, number: int) -> None:
        """Check one training reply and add it. Raises where it cannot be used, with nothing added but its bytes."""
        total.bytes_up += reply.size
        self._check_reply(reply, number)
        images = reply.number("metrics", "images")
        if not (1 <= images <= self.counts[name]["train_images"] and images == int(images)):
            raise DataError(f"claims {images:g} training images, said {self.counts[name]['train_images']} before")
        loss = 0.0 if self.study.privacy else reply.number("metrics", "loss")
        if not 0 <= loss <= MAX_LOSS:
            raise DataError(f"its training loss is {loss:g}; lower the learning rate")
        account = self._account(reply)
        tensors = reply.arrays("tensors")
        check_tensors(tensors, shapes(self.initial))
        due = validates(self.study, number - 1)
        if due:
            validation = self._histogram(reply, "validation", self.counts[name]["validation_images"])
            total.validation = validation if total.validation is None else pooled([total.validation, validation])
        total.mean.add({n: np.asarray(t, np.float32) for n, t in tensors.items()}, images)
        total.losses.append(loss * images)
        if account is not None:
            self.accounts[name] = account

    def _account(self, reply: Reply) -> Account | None:
        """Return what a private study's clinic says of its privacy. Raises DataError where it says nothing sensible."""
        if self.study.privacy is None:
            return None
        epsilon, noise, evaluation = (
            reply.number("account", key) for key in ("epsilon", "noise_multiplier", "evaluation")
        )
        head = reply.text("ledger", "head")
        # Each comparison is written so that a value that is not a number fails it.
        said = epsilon >= 0 and 0 <= noise < math.inf and _HEAD.fullmatch(head)
        noised = self.study.privacy.evaluation == "noised"
        if not said or not (0 <= evaluation < math.inf if noised else math.isnan(evaluation)):
            raise DataError("its privacy account is missing or makes no sense; use the same melfed version")
        return Account(epsilon if epsilon < math.inf else None, head, noise, evaluation if noised else None)

    def _tell(self, name: str, absent: _Absent) -> None:
        declined = name in absent.declined
        self.observer.replied(name, (absent.declined | absent.failed).get(name), declined)

    def _check_reply(self, reply: Reply, number: int) -> None:
        _raise_refusal(reply)
        if reply.text("request", "digest") != self.study.digest or reply.text("request", "round") != str(number):
            raise StudyError("the reply is to another study or round")

    def _histogram(self, reply: Reply, part: str, images: int) -> Histogram:
        """Return a reply's histogram of a part's scores. Raises where it is not of so many images."""
        histogram = histogram_from_arrays(reply.arrays(part))
        noised = self.study.privacy is not None and self.study.privacy.evaluation == "noised"
        if isinstance(histogram, NoisyHistogram) != noised:
            raise DataError(f"its {part} histogram has {'no ' if noised else ''}noise, against the study")
        if isinstance(histogram, ScoreHistogram) and histogram.images != images:
            raise DataError(f"scored {histogram.images} {part} images, not {images}")
        return histogram

    def _check_finite(self, number: int, model: Tensors, optimizer: Tensors) -> None:
        """Refuse a model that overflowed; it would be the last checkpoint, and no clinic could go on from it."""
        for name, tensor in (model | optimizer).items():
            if not np.isfinite(tensor).all():
                raise RunError(
                    f"{self.folder.path}: after round {number} {name} is not finite; "
                    "begin a new run with a lower training.learning_rate or federation.server_learning_rate"
                )

    def _record_validation(self, number: int, validation: Histogram | None) -> None:
        if number >= 1 and validation is not None:
            self.folder.append({"event": "validation", "round": number, "histogram": validation.to_lists()})

    def _evaluate(self, grid: Channel, model: Tensors) -> Outcome:
        """Have every clinic evaluate the final model."""
        self.observer.evaluating(list(self.names.values()))
        rounds = self.study.federation.rounds
        content = exchange.request(rounds, self.study.digest, self.folder.identity, model)
        test: dict[str, Histogram] = {}
        validation: Histogram | None = None
        absent = _Absent()
        for reply in self._ask(grid, exchange.EVALUATE, self.names, content):
            name = self.names[reply.node]
            try:
                self._check_reply(reply, rounds)
                histogram = self._histogram(reply, "test", self.counts[name]["test_images"])
                other = self._histogram(reply, "validation", self.counts[name]["validation_images"])
                account = self._account(reply)
            except USELESS as error:
                absent.note(name, reply, error)
            else:
                test[name] = histogram
                validation = other if validation is None else pooled([validation, other])
                if account is not None:
                    self.accounts[name] = account
            self._tell(name, absent)
        self._need_quorum(len(test), len(self.names), absent)
        self._record_validation(rounds, validation)
        accounts = dict(sorted(self.accounts.items()))
        return Outcome({"": model}, self.counts, dict(sorted(test.items())), accounts=accounts)

    def _cohort(self, number: int) -> dict[int, str]:
        """Choose the clinics of a round: all, or a random part that depends on seed and round alone."""
        size = max(1, round(self.study.federation.cohort * len(self.names)))
        if size == len(self.names):
            return dict(self.names)
        generator = np.random.default_rng(seed_for(self.study.seed, "cohort", number))
        chosen = generator.choice(len(self.names), size=size, replace=False)
        nodes = list(self.names)
        return {nodes[i]: self.names[nodes[i]] for i in sorted(int(c) for c in chosen)}

    def _need_quorum(self, answered: int, asked: int, absent: _Absent) -> None:
        needed = max(1, math.ceil(self.study.federation.quorum * asked - 1e-9))
        if answered < needed:
            raise QuorumError(
                f"{answered} of {asked} clinics answered, {needed} are needed: {absent.reasons()}; "
                f"mend that and go on with --resume {self.folder.path}"
            )

    def _ask(self, grid: Channel, kind: str, nodes: Mapping[int, str], content: exchange.Content) -> Iterator[Reply]:
        return exchange.ask(grid, kind, nodes, content, self.study.federation.deadline_seconds, self._wait)

    def _wait(self) -> None:
        """Pass one polling interval; raises RunError when Flower below has stopped."""
        self.observer.waiting()
        if self.stop.wait(exchange.POLL_SECONDS):
            raise RunError(f"{self.folder.path}: Flower stopped early; go on with --resume {self.folder.path}")


def _raise_refusal(reply: Reply) -> None:
    """Raise what a clinic gave as the reason for no answer."""
    if reply.declined is not None:
        raise DeclinedError(reply.declined)
    if reply.error is not None:
        raise DataError(reply.error)
