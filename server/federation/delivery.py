"""A finished run's model on its way to clinics: those that took part, and others on request.

What each said is in `RUN/deliveries.json`. A clinic that has this very model is not sent it again.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from pydantic import Field, ValidationError

from melfed.common.audit.events import Event
from melfed.common.export.facts import ModelFacts
from melfed.common.export.signature import Signed
from melfed.common.files import write_text
from melfed.common.messages import DELIVER, MODEL
from melfed.common.study.protocol import Section, StudyProtocol
from melfed.common.tensors import Tensors, to_bytes
from melfed.server.federation.channel import Channel, Reply, RequestTerms, one_line
from melfed.server.federation.context import Conduct
from melfed.server.federation.observer import Silent
from melfed.server.runs.folder import RunFolder

NAME = "deliveries.json"
AT_THE_END_SECONDS = 120.0
"""How long a run's end waits for its clinics to take the model; whoever is away then is sent it on request."""
ABSENT = "it is not online"


class Delivered(Section):
    """What became of the model at one clinic: `sha256` is of what was sent, `reason` why it was not taken."""

    sha256: str
    taken: bool
    time: str
    reason: str = ""


class _File(Section):
    clinics: dict[str, Delivered] = Field({})


def read_deliveries(folder: RunFolder) -> dict[str, Delivered]:
    """Return what is known of a run's deliveries, by clinic; nothing where the file is missing or damaged."""
    try:
        return _File.model_validate_json((folder.path / NAME).read_bytes()).clinics
    except (OSError, ValidationError):
        return {}  # then it is sent once more, which costs a clinic nothing


@dataclass(frozen=True)
class Parcel:
    """A model as clinics are sent it.

    Attributes:
        study: that made it.
        tensors: those that learnt.
        facts: what is told of it.
    """

    study: StudyProtocol
    tensors: Tensors
    facts: ModelFacts

    @property
    def told(self) -> str:
        """The facts as they travel, and as they are signed."""
        return self.facts.model_dump_json()


class Delivery:
    """Sends one parcel."""

    def __init__(self, folder: RunFolder, terms: Conduct, parcel: Parcel, sign: Callable[[bytes, str], Signed]) -> None:
        """Take the run, how it is conducted, what is sent, and what signs tensors (one safetensors file) and facts."""
        self.folder, self.terms, self.parcel = folder, terms, parcel
        content = to_bytes(parcel.tensors)
        self._signed = sign(content, parcel.told)
        self._sha256 = hashlib.sha256(content + parcel.told.encode()).hexdigest()

    def at_the_end(self, channel: Channel, names: Collection[str]) -> dict[str, Delivered]:
        """Send the model to a run's clinics as far as they are there, without those that have it; return the rows.

        Raises:
            StoppedError, StorageError: as `melfed.server.federation.rounds.Rounds.conduct`.
        """
        known = read_deliveries(self.folder)
        due = [name for name in names if name not in known or known[name].sha256 != self._sha256]
        seconds = min(AT_THE_END_SECONDS, self.parcel.study.federation.deadline_seconds)
        return self._send(channel, due, seconds, wait=False)

    def on_request(self, channel: Channel, names: Collection[str]) -> dict[str, Delivered]:
        """Send the model to these clinics, and wait for those that are away until the study's deadline; as above."""
        return self._send(channel, names, self.parcel.study.federation.deadline_seconds, wait=True)

    def _send(self, channel: Channel, names: Collection[str], seconds: float, *, wait: bool) -> dict[str, Delivered]:
        rows = dict.fromkeys(names, (False, ABSENT))
        asking = _Asking(self, wait)
        while wait and not set(names) <= set(self._there(channel, names).values()) and asking.left(seconds):
            asking.wait()
        nodes = self._there(channel, names)
        study, run = self.parcel.study, self.folder.identity
        content = channel.delivery(study, run, self.parcel.tensors, self.parcel.told, self._signed)
        terms = RequestTerms(seconds, again=True, grace=study.federation.grace_seconds)
        for reply in channel.ask(DELIVER, nodes, content, terms, asking) if nodes else ():
            rows[nodes[reply.node]] = _outcome(reply, nodes[reply.node])
        return self._write(rows)

    def _there(self, channel: Channel, names: Collection[str]) -> dict[int, str]:
        return {node: info.name for node, info in sorted(channel.online().items()) if info.name in names}

    def _write(self, rows: dict[str, tuple[bool, str]]) -> dict[str, Delivered]:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        told = {
            name: Delivered(sha256=self._sha256, taken=taken, time=now, reason=reason)
            for name, (taken, reason) in sorted(rows.items())
        }
        if told:
            whole = _File(clinics={**read_deliveries(self.folder), **told})
            write_text(self.folder.path / NAME, whole.model_dump_json(indent=1) + "\n")
        about = {"run": self.folder.identity, "digest": self.parcel.study.digest}
        for name, row in told.items():
            if row.taken:
                self.terms.record(Event.MODEL_DELIVERED, clinic=name, **about)
            else:
                self.terms.record(Event.MODEL_NOT_DELIVERED, clinic=name, reason=row.reason, **about)
        return told


def _outcome(reply: Reply, name: str) -> tuple[bool, str]:
    """Return whether a clinic has taken the model, and why not."""
    reason = reply.declined or reply.error
    if reason is not None:
        return False, one_line(reason)
    said = reply.text(MODEL, "clinic")
    return (True, "") if said == name else (False, f"its answer is that of {one_line(said) or 'nobody'}")


class _Asking:
    """One delivery, as `melfed.server.federation.channel.Asker`."""

    def __init__(self, delivery: Delivery, patient: bool) -> None:
        self._delivery, self._patient, self._began = delivery, patient, monotonic()

    def wait(self) -> None:
        """Pass one polling interval. Raises StoppedError where the run is to stop."""
        self._delivery.terms.wait(self._delivery.folder, Silent())

    def left(self, seconds: float) -> bool:
        """Tell whether this has taken less than so many seconds so far."""
        return monotonic() - self._began < seconds

    def enough(self) -> bool:
        """Tell whether whoever is lost is waited for no longer than the grace period."""
        return not self._patient

    def lost(self, node: int, reason: str) -> None:
        """Whoever is lost is in the rows at the end."""

    def returned(self, node: int) -> None:
        """Whoever is back is asked again."""
