"""What rounds need of a channel to the clinics, whatever carries it (`melfed.server.flower.channel` does so by
Flower)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from melfed.common.export.signature import Signed
from melfed.common.study.protocol import StudyProtocol

OFFLINE = "offline"
MAX_REASON = 300
Content = object
"""Of a request; what it is, only its channel knows."""
Sent = Mapping[str, npt.NDArray[np.generic]]
"""The tensors of a request: packed already (`melfed.common.tensors.PackedTensors`), they are sent as they are."""


def one_line(text: str) -> str:
    """Return text from outside as one printable line of at most 300 characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:MAX_REASON]


class Reply(Protocol):
    """One clinic's answer, or why there is none: `error`, or `declined` where the clinic keeps to its own policy.

    `silent` says that nothing came at all; `size` is bytes.
    """

    @property
    def node(self) -> int:
        """Who answers."""

    @property
    def error(self) -> str | None:
        """Why there is no answer."""

    @property
    def declined(self) -> str | None:
        """Why the clinic's policy forbids one."""

    @property
    def silent(self) -> bool:
        """Whether nothing came."""

    @property
    def size(self) -> int:
        """Bytes of its arrays."""

    def arrays(self, name: str) -> dict[str, npt.NDArray[np.generic]]:
        """Return a record of arrays by its name; empty where the reply lacks it. Raises TensorError."""

    def number(self, record: str, key: str) -> float:
        """Return a metric; NaN where the reply lacks it."""

    def text(self, record: str, key: str) -> str:
        """Return a setting as text; empty where the reply lacks it."""


@dataclass(frozen=True)
class Node:
    """A clinic's node that is online now.

    Attributes:
        name: what the coordinator registered its key as; empty where nodes are not registered (simulation).
        since: when it came online. Another time than before means that it was away, and may have forgotten its request.
    """

    name: str
    since: str


@dataclass(frozen=True)
class RequestTerms:
    """How long clinics are asked, and how often.

    Attributes:
        seconds: after these, whoever has not answered is given up.
        again: whoever is lost is asked again when it is back; otherwise any error is final.
        grace: with enough answers, how long is waited for those that are lost, seconds.
    """

    seconds: float
    again: bool = False
    grace: float = 0.0


class Asker(Protocol):
    """Whoever asks: is told what happens, and says when there are answers enough."""

    def wait(self) -> None:
        """Pass one polling interval."""

    def enough(self) -> bool:
        """Tell whether the answers so far are enough, should those that are lost not come back."""

    def lost(self, node: int, reason: str) -> None:
        """A node went offline, or its ClientApp died, before it answered."""

    def returned(self, node: int) -> None:
        """A lost node is asked again."""


class Channel(Protocol):
    """Reaches the clinics."""

    def request(
        self, round_number: int, study: StudyProtocol, run: str, tensors: Sent | None = None, *, counts: bool = True
    ) -> Content:
        """Return the content of a request to clinics.

        Args:
            round_number: 0 before the first round.
            study: travels in whole, but for the path of its weights.
            run: the run's identity, for the clinics' ledgers.
            tensors: the global model.
            counts: whether a clinic that describes itself is to tell its counts, which a private study's clinics pay
                for.
        """

    def delivery(self, study: StudyProtocol, run: str, tensors: Sent, facts: str, signed: Signed) -> Content:
        """Return the content of a request to keep a finished model.

        Args:
            study: as for `request`.
            run: the run's identity.
            tensors: those that learnt.
            facts: what is told of the model, JSON.
            signed: of tensors and facts.
        """

    def size(self, content: Content) -> int:
        """Return the bytes of a request's arrays."""

    def online(self) -> dict[int, Node]:
        """Return the nodes that are online, by their id."""

    def ask(
        self,
        kind: str,
        nodes: Mapping[int, str],
        content: Content,
        terms: RequestTerms,
        asker: Asker,
        away: Mapping[int, float] | None = None,
    ) -> Iterator[Reply]:
        """Send one request to several nodes and yield their replies as they arrive: one a node, never more.

        Args:
            kind: `DESCRIBE`, `TRAIN`, `SUMMARISE`, `EVALUATE` or `DELIVER`.
            nodes: whom to ask, in this order, and their names.
            content: of the request.
            terms: how long, and how often.
            asker: is told what happens.
            away: of these nodes that were lost before: since when (`time.monotonic`).
        """
