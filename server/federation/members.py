"""The clinics of a run: who they are, who is there, who joins late, comes back, or is not let in and why."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import numpy as np
from pydantic import Field, ValidationError

from melfed.common.audit.events import Event
from melfed.common.errors import MelfedError, QuorumError, StudyError
from melfed.common.files import write_text
from melfed.common.messages import DESCRIBE, IDENTITY
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import Section, StudyProtocol
from melfed.server.aggregation import robust
from melfed.server.federation.channel import OFFLINE, Channel, Content, Node, Reply, RequestTerms, one_line
from melfed.server.federation.context import Conduct, FieldValue
from melfed.server.federation.observer import Observer
from melfed.server.federation.reply_checks import USELESS, Intake, check_name, raise_refusal
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import ReportedAccount

INTRODUCTION_SECONDS = 60.0
"""Longest that a round's start waits for clinics to describe themselves."""
TOLD_SECONDS = 10.0
"""How long a run waits at its start before it says for whom."""
AGAIN_SECONDS = 60.0
"""Before a clinic that was not let in is asked again, at the start of a round."""


@dataclass
class Absent:
    """Clinics without a usable answer, with the reason of each: `declined` by their own policy, or `failed`."""

    failed: dict[str, str] = field(default_factory=dict)
    declined: dict[str, str] = field(default_factory=dict)

    def note(self, name: str, reply: Reply, error: MelfedError) -> None:
        """Write down why a clinic's reply cannot be used."""
        self.forget(name)
        kind = self.failed if reply.declined is None else self.declined
        kind[name] = one_line(str(error))

    def forget(self, name: str) -> None:
        """Take back what was noted of a clinic."""
        self.failed.pop(name, None)
        self.declined.pop(name, None)

    def reasons(self) -> str:
        """Return all of it in one line, a reason that several have once."""
        rows = [f"{names}: {reason}" for reason, names in _by_reason(self.failed)]
        rows += [f"{names} declined: {reason}" for reason, names in _by_reason(self.declined)]
        return "; ".join(rows) or "no answer"


def _by_reason(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return each reason with the names of those who have it, in the order of the names."""
    names: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        names.setdefault(reason, []).append(name)
    return [(reason, ", ".join(those)) for reason, those in names.items()]


class _Known(Section):
    """A clinic in `members.json`."""

    counts: Counts
    account: ReportedAccount | None


class _Register(Section):
    """`members.json`: after a restart the run has the same clinics, whether they are online just then or not."""

    clinics: dict[str, _Known] = Field(default_factory=dict)


def told_accounts(register: Path) -> dict[str, ReportedAccount]:
    """Return what each clinic of a private run last said of its privacy, by its name, as `members.json` has it."""
    try:
        known = _Register.model_validate_json(register.read_bytes()).clinics
    except (OSError, ValidationError):
        return {}  # none yet; or damaged, and then the clinics say it again
    return {name: clinic.account for name, clinic in known.items() if clinic.account is not None}


class Members:
    """Knows a run's clinics.

    Attributes:
        names: the nodes that take part, by id; sorted by name.
        counts: what each clinic that ever took part says of its data.
        accounts: of a private study, what each clinic last said of its privacy.
        absent: whoever is not let in.
        away: the nodes that are lost, since when.
    """

    def __init__(self, study: StudyProtocol, folder: RunFolder, conduct: Conduct, observer: Observer) -> None:
        self.study, self.folder, self.conduct, self.observer = study, folder, conduct, observer
        self.federation = study.federation
        if self.federation.mode == "one_round":
            # Everybody is asked, and no update is held against others: there is none.
            self.federation = self.federation.model_copy(update={"robust": "none", "cohort": 1.0})
        self.intake = Intake(study, folder.identity)
        self.names: dict[int, str] = {}
        self.counts: dict[str, Counts] = {}
        self.accounts: dict[str, ReportedAccount] = {}
        self.absent = Absent()
        self.away: dict[int, float] = {}
        self._online: dict[int, Node] = {}
        self._asked: dict[int, tuple[str, float]] = {}
        self._labels: dict[int, str] = {}
        self._versions: dict[str, str] = {}
        self._round = 0

    def gather(self, channel: Channel) -> None:
        """Wait for the expected clinics, and ask each for its name, its study and its counts.

        As in a round, the wait is over when all are there, at the end of the grace period once there are enough, and at
        the deadline. Whoever comes later joins before the next round.

        Raises:
            QuorumError: too few came, or were let in.
            StudyError: the study's aggregation needs more clinics than this run has.
        """
        spec = self.federation
        needed = max(self.needed(self.conduct.clinics), robust.clinics_needed(spec, self.conduct.clinics))
        if self.conduct.deployed:
            self._recall()
        started = monotonic()
        enough_since, told = None, False
        while not self._all_there(nodes := self._invited(channel)) and monotonic() - started < spec.deadline_seconds:
            if monotonic() - started >= TOLD_SECONDS and not told:
                told = True
                self._miss(nodes)
            if len(nodes) < needed:
                enough_since = None
            elif enough_since is None:
                enough_since = monotonic()
            elif monotonic() - enough_since >= spec.grace_seconds:
                break
            self.conduct.wait(self.folder, self.observer)
        self._online = nodes
        terms = RequestTerms(spec.deadline_seconds, self.conduct.deployed, spec.grace_seconds)
        if self.study.privacy is not None:
            nodes = self._able(channel, nodes, terms, needed)
            self.need_quorum(len(nodes), self.conduct.clinics, self.absent, needed)
        self._introduce(channel, nodes, terms, needed)
        self.need_quorum(len(self.names), self.conduct.clinics, self.absent, needed)
        if self.conduct.deployed:
            self.remember()

    def refresh(self, channel: Channel, round_number: int) -> None:
        """Before a round of a deployment: let in whoever joins late, and see who is back, and as what."""
        self._round = round_number
        nodes = self._online = self._invited(channel)
        for node in [node for node in self.away if node in nodes]:
            self.returned(node)
        due = {node: info for node, info in nodes.items() if self._is_due(node, info)}
        if due:
            seconds = min(INTRODUCTION_SECONDS, self.federation.deadline_seconds)
            self._introduce(channel, due, RequestTerms(seconds, self.conduct.deployed), 0)

    def cohort(self, number: int) -> list[str]:
        """Choose the clinics of a round: all, or a random part.

        It is a function of the study's seed, the round and the clinics' names: there is no generator whose state a
        checkpoint would have to keep, and a run that goes on asks the same ones.
        """
        names = sorted(self.counts)
        size = robust.cohort_size(self.federation, len(names))
        if size == len(names):
            return names
        generator = np.random.default_rng(seed_for(self.study.seed_of("training"), "cohort", number))
        chosen = generator.choice(len(names), size=size, replace=False)
        return [names[i] for i in sorted(int(c) for c in chosen)]

    def nodes_of(self, names: list[str]) -> dict[int, str]:
        """Return the nodes of these clinics, in the order of their names; without those that have none now."""
        wanted = set(names)
        return {node: name for node, name in self.names.items() if name in wanted}

    def most_weight(self, names: Iterable[str]) -> int:
        """Return the largest sum of weights that these clinics may have in the mean, by their own words."""
        return sum(self.intake.most_weight(self.counts[name]) for name in names if name in self.counts)

    def label(self, node: int) -> str:
        """Return what a node is called in reports."""
        registered = self._online[node].name if node in self._online else ""
        return self.names.get(node) or self._labels.get(node) or registered or f"node {node}"

    def needed(self, asked: int) -> int:
        """Return how many of the clinics asked must answer: the quorum, and what the aggregation cannot do without."""
        share = max(1, math.ceil(self.federation.quorum * asked - 1e-9))
        return max(share, robust.replies_needed(self.federation))

    def need_quorum(self, answered: int, asked: int, absent: Absent, needed: int | None = None) -> None:
        """Raise QuorumError where too few of the clinics asked have answered; `needed` in place of the usual number."""
        needed = self.needed(asked) if needed is None else needed
        if answered < needed:
            again = self.folder.path.name if self.conduct.deployed else self.folder.path
            # Where all that are missing have declined, it is for them to decide: a budget that is spent stays spent.
            mend = "" if absent.declined and not absent.failed else f"; mend that and go on with --resume {again}"
            raise QuorumError(f"{answered} of {asked} clinics answered, {needed} are needed: {absent.reasons()}{mend}")

    def ask(
        self, channel: Channel, kind: str, nodes: Mapping[int, str], content: Content, asking: "Asking"
    ) -> Iterator[Reply]:
        """Ask clinics and yield their replies, one each; see `melfed.server.federation.channel.Channel.ask`."""
        spec = self.federation
        terms = RequestTerms(spec.deadline_seconds, self.conduct.deployed, spec.grace_seconds)
        return channel.ask(kind, nodes, content, terms, asking, self.away)

    def remember(self) -> None:
        """Write `members.json`. Raises StorageError."""
        known = {name: _Known(counts=c, account=self.accounts.get(name)) for name, c in self.counts.items()}
        write_text(self.folder.members, _Register(clinics=known).model_dump_json(indent=1) + "\n")

    def _recall(self) -> None:
        try:
            register = _Register.model_validate_json(self.folder.members.read_bytes())
        except (OSError, ValidationError):
            return  # none yet; or damaged, and then the clinics say again what was in it
        for name, known in sorted(register.clinics.items()):
            self.counts[name] = known.counts
            if known.account is not None:
                self.accounts[name] = known.account

    def _all_there(self, nodes: Mapping[int, Node]) -> bool:
        expected = self.conduct.expected
        if isinstance(expected, int):
            return len(nodes) >= expected
        # A node without a registered name may be any of them.
        unnamed = sum(not node.name for node in nodes.values())
        return len(expected - {node.name for node in nodes.values()}) <= unnamed

    def _miss(self, nodes: Mapping[int, Node]) -> None:
        """Tell which of the expected clinics are not there."""
        if isinstance(self.conduct.expected, int):
            return
        for name in sorted(self.conduct.expected - {node.name for node in nodes.values()}):
            self.absent.failed[name] = OFFLINE
            self.record(Event.CLINIC_LOST, clinic=name, round=self._round, reason=OFFLINE)

    def _invited(self, channel: Channel) -> dict[int, Node]:
        """Return the nodes online that may be of this run: another clinic's is neither waited for nor asked."""
        return {node: info for node, info in channel.online().items() if not info.name or self._is_invited(info.name)}

    def _is_invited(self, name: str) -> bool:
        return isinstance(self.conduct.expected, int) or name in self.conduct.expected

    def _is_due(self, node: int, info: Node) -> bool:
        """Tell whether a node is to describe itself: it is new, was away, or was not let in a while ago."""
        since, asked = self._asked.get(node, (None, -math.inf))
        return since != info.since or (node not in self.names and monotonic() - asked >= AGAIN_SECONDS)

    def _able(self, channel: Channel, nodes: Mapping[int, Node], terms: RequestTerms, needed: int) -> dict[int, Node]:
        """Return the nodes whose clinics can take part to the run's end, before any of them has paid for anything."""
        nodes = dict(sorted(nodes.items()))
        content = channel.request(0, self.study, self.intake.run, counts=False)
        asking, able = Asking(self, needed), dict[int, Node]()
        for node, info in nodes.items():
            self._asked[node] = (info.since, monotonic())
        for reply in channel.ask(DESCRIBE, dict.fromkeys(nodes, ""), content, terms, asking):
            if reply.error is None and reply.declined is None:
                able[reply.node] = nodes[reply.node]
                asking.answered += 1
            else:
                self._admit(reply, nodes[reply.node])
        return able

    def _introduce(self, channel: Channel, nodes: Mapping[int, Node], terms: RequestTerms, needed: int) -> None:
        """Ask nodes to describe themselves, and let in those whose answer will do.

        Whoever is lost meanwhile is waited for until `needed` are in.
        """
        nodes = dict(sorted(nodes.items()))
        content = channel.request(0, self.study, self.intake.run)
        asking = Asking(self, needed)
        for node, info in nodes.items():
            self._asked[node] = (info.since, monotonic())
        for reply in channel.ask(DESCRIBE, dict.fromkeys(nodes, ""), content, terms, asking):
            asking.answered += self._admit(reply, nodes[reply.node])
        self.names = dict(sorted(self.names.items(), key=lambda item: item[1]))
        self.counts = dict(sorted(self.counts.items()))

    def _admit(self, reply: Reply, info: Node) -> bool:
        """Let a node in, or not; tell which it is."""
        if reply.silent and reply.node in self.away:
            del self._asked[reply.node]  # it is asked as soon as it is back
            if reply.node in self.names:
                return False
        before = self.names.pop(reply.node, None)
        self.absent.forget(self._labels.pop(reply.node, ""))
        try:
            name, counts = self._introduction(reply, info)
        except USELESS as error:
            label = self._labels[reply.node] = before or self._label(reply, info)
            if version := reply.text(IDENTITY, "version"):
                self._note_version(label, version)
            self.absent.note(label, reply, error)
            self.tell(reply, label, self.absent)
            return False
        if self._round and name not in self.counts:
            self.record(Event.CLINIC_LATE, clinic=name, round=self._round)
        self.absent.forget(name)
        self.names[reply.node], self.counts[name] = name, counts
        return True

    def tell(self, reply: Reply, name: str, absent: Absent) -> None:
        """Tell observer and audit log what has become of a clinic's answer."""
        reason, declined = (absent.declined | absent.failed).get(name), name in absent.declined
        if reason is not None and reply.node not in self.away:  # of a loss it was told when it happened
            event = Event.CLINIC_LOST if reply.silent else Event.CLINIC_DECLINED if declined else Event.UPDATE_REFUSED
            self.record(event, clinic=name, round=self._round, reason=reason)
        self.observer.replied(name, reason, declined)

    def lost(self, node: int, reason: str) -> None:
        """Write down that a node is lost."""
        self.away[node] = monotonic()
        self.record(Event.CLINIC_LOST, clinic=self.label(node), round=self._round, reason=one_line(reason))

    def returned(self, node: int) -> None:
        """Write down that a node is back."""
        seconds = round(monotonic() - self.away.pop(node), 1)
        self.record(Event.CLINIC_RETURNED, clinic=self.label(node), round=self._round, seconds=seconds)

    def record(self, event: Event, **fields: FieldValue) -> None:
        """Write an event of this run to the audit log."""
        self.conduct.record(event, run=self.intake.run, **fields)

    def _introduction(self, reply: Reply, info: Node) -> tuple[str, Counts]:
        raise_refusal(reply)
        name, digest = check_name(reply.text(IDENTITY, "clinic")), reply.text(IDENTITY, "digest")
        if info.name and name != info.name:
            raise StudyError(f"calls itself {name}, but its key is registered as {info.name}")
        if not self._is_invited(name):
            raise StudyError(f"clinic {name} is not among those that this run is for")
        version = self._note_version(name, reply.text(IDENTITY, "version"))
        if digest != self.study.digest:
            raise StudyError(f"clinic {name} holds study {digest[:12]}, not {self.study.digest[:12]}{version}")
        holder = next((node for node, other in self.names.items() if other == name), None)
        if holder is not None:
            # A clinic with a new key is a new node; a registered name is taken by its own clinic alone.
            if not info.name or holder in self._online:
                raise StudyError(f"a clinic named {name} takes part already")
            del self.names[holder]
        return name, self.intake.counts(reply, name)

    def _note_version(self, name: str, version: str) -> str:
        """Tell, once, of a clinic that runs another melfed; return that in words."""
        version, ours = one_line(version)[:40], self.conduct.version
        if not ours or version == ours:
            return ""
        if self._versions.get(name) != version:
            self.record(Event.CLINIC_VERSION, clinic=name, version=version or "unknown", expected=ours)
        self._versions[name] = version
        return f"; it runs melfed {version or 'of an unknown version'}, this server {ours}"

    def _label(self, reply: Reply, info: Node) -> str:
        """Return what a node that is not let in is called: as it is registered, or says; never as somebody else."""
        said = reply.text(IDENTITY, "clinic")
        try:
            name = info.name or check_name(said)
        except USELESS:
            return f"node {reply.node}"
        return f"node {reply.node}" if name in self.names.values() else name


class Asking:
    """One question to the clinics, as `melfed.server.federation.channel.Asker`: counts the usable answers and tells who
    is lost."""

    def __init__(self, members: Members, needed: int, answered: int = 0) -> None:
        self.members, self.needed, self.answered = members, needed, answered

    def wait(self) -> None:
        """Pass one polling interval. Raises StoppedError where the run is to stop."""
        self.members.conduct.wait(self.members.folder, self.members.observer)

    def enough(self) -> bool:
        """Tell whether there are as many usable answers as are needed."""
        return self.answered >= self.needed

    def lost(self, node: int, reason: str) -> None:
        """Write down that a node is lost."""
        self.members.lost(node, reason)

    def returned(self, node: int) -> None:
        """Write down that a node is back, and asked again."""
        self.members.returned(node)
