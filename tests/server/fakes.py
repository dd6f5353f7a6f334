"""A Flower grid whose clinics are scripted, and an observer that writes down what it is told."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noised_moments import noised_moments
from melfed.client.privacy.noised_subgroups import noised_subgroups
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.common import messages
from melfed.common.compression import compressed
from melfed.common.data.records import LesionRecord
from melfed.common.messages import PACKED, pack, unpack
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.metrics.score_edges import edges_around
from melfed.common.metrics.subgroups import exact_subgroups
from melfed.common.moments.noisy_moments import NoisyMoments
from melfed.common.seeds import seed_for
from melfed.common.study.count_noise import unit_parts
from melfed.common.study.evaluation_noise import noised_attributes, subgroups_multiplier
from melfed.common.study.moments_noise import of_moments
from melfed.common.study.protocol import EvaluationSpec, FederationSpec, PrivacySpec, StudyProtocol, validates
from melfed.server.federation.conductor import conductor
from melfed.server.federation.context import Conduct
from melfed.server.flower import channel as exchange
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome

POLL_SECONDS = 0.002
Answer = RecordDict | Error | None
"""What a node answers; an error is made by Flower's infrastructure, and None never comes."""
Tamper = Callable[[RecordDict], Answer]


def study_of(
    clinics: int = 3,
    *,
    rounds: int = 2,
    privacy: Mapping[str, object] | None = None,
    subgroups: tuple[str, ...] = (),
    **federation,
) -> StudyProtocol:
    """A study over scripted clinics. Nothing is trained, so only its `federation` and `privacy` sections matter."""
    spec = FederationSpec(rounds=rounds, **{"deadline_seconds": 20.0, **federation})
    protects = None if privacy is None else PrivacySpec(**{"unit": "patient", "epsilon": 3.0, **privacy})
    told = EvaluationSpec(subgroups=subgroups)
    return StudyProtocol(name=f"scripted-{clinics}", federation=spec, privacy=protects, evaluation=told)


def scores_of(clinic: str, part: str, images: int) -> ScoreHistogram:
    rng = np.random.default_rng(seed_for(0, clinic, part))
    return ScoreHistogram.from_scores(rng.normal(size=images), np.arange(images) % 3 == 0, list(range(images)))


NOISE, EVALUATION_NOISE, COUNT_NOISE = 2.0, 4.0, 3.0
HEADS = {name: f"{number:02x}" * 32 for number, name in enumerate("abcdef", start=10)}


def noised_scores_of(clinic: str, part: str, images: int) -> NoisyHistogram:
    """The same with noise, the same noise each time."""
    rng = np.random.default_rng(seed_for(0, clinic, part))
    scores = (rng.normal(size=images), np.arange(images) % 3 == 0, [str(image) for image in range(images)])
    return noised_histograms({"test": scores}, EVALUATION_NOISE, NoiseSource(rng.bytes), edges_around(0.0, 1.0))["test"]


def subgroups_of(
    clinic: str, study: StudyProtocol, attributes: tuple[str, ...], images: int
) -> Mapping[str, ScoreHistogram | NoisyHistogram]:
    """The same by cells, every second image that of a woman."""
    rng = np.random.default_rng(seed_for(0, clinic, "subgroups"))
    plain = LesionRecord("", 0, "nv", None, None, None, 55.0, None, "torso", "here")
    records = [
        replace(plain, image=str(n), target=int(n % 3 == 0), sex=("male", "female")[n % 2]) for n in range(images)
    ]
    content = records, rng.normal(size=images), [str(n) for n in range(images)], attributes
    if study.privacy is None or study.privacy.evaluation == "public":
        return exact_subgroups(*content)
    sigma = subgroups_multiplier(study, EVALUATION_NOISE)
    return noised_subgroups(*content, sigma, NoiseSource(rng.bytes), edges_around(0.0, 1.0))


def arrays(tensors: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({PACKED: Array(**pack(tensors))})


def held(record: ArrayRecord) -> dict[str, np.ndarray]:
    """The tensors of a record."""
    return unpack("tensors", record)


@dataclass
class FakeClinic:
    """A clinic that "trains" by a fixed function of the model, its name and the round."""

    name: str
    study: StudyProtocol
    images: int = 30
    tamper: Mapping[str, Tamper] = field(default_factory=dict)
    """By message type: what becomes of the honest answer."""
    asked: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, message: Message) -> Answer:
        kind = message.metadata.message_type
        self.asked.append((kind, int(str(message.content.config_records["request"]["round"]))))
        answer = {
            messages.DESCRIBE: self.describe,
            messages.TRAIN: self.train,
            messages.SUMMARISE: self.summarise,
            messages.EVALUATE: self.evaluate,
            messages.DELIVER: self.deliver,
        }[kind]
        return self.tamper.get(kind, lambda content: content)(answer(message.content))

    def deliver(self, request: RecordDict) -> RecordDict:
        assert request.config_records["model"].keys() == {"facts", "signature", "certificate"}
        assert held(request.array_records["tensors"])
        return RecordDict({"model": ConfigRecord({"clinic": self.name})})

    def describe(self, _request: RecordDict) -> RecordDict:
        counts: dict[str, float] = {"noise": COUNT_NOISE if self.study.privacy else 0.0}
        for part, images in (("train", self.images), ("validation", 9), ("test", 12)):
            if part in unit_parts(self.study):
                counts |= {f"{part}_units": images, f"{part}_positive_units": images // 3}
            else:
                counts |= {f"{part}_images": images, f"{part}_positives": images // 3, f"{part}_groups": images}
        identity = ConfigRecord({"clinic": self.name, "digest": self.study.digest, "synthetic": False})
        return RecordDict({"identity": identity, "counts": MetricRecord(counts)})

    def train(self, request: RecordDict) -> RecordDict:
        number = int(str(request.config_records["request"]["round"]))
        model = held(request.array_records["tensors"])
        numbers = MetricRecord({"weight": self.images})
        trained, kind = self.trained(model, number), self.study.federation.compression
        sent = trained if kind == "none" else compressed(trained, model, kind, number)
        content = RecordDict(
            {
                "request": request.config_records["request"],
                "tensors": arrays(sent),
                "metrics": numbers,
            }
        )
        if self.study.privacy is None:
            numbers["loss"] = 1.0 / number
        # What came is the model after the round before.
        if validates(self.study, number - 1):
            content["validation"] = self.scores("validation", 9)
        return self.with_account(content, number)

    def scores(self, part: str, images: int) -> ArrayRecord:
        noised = self.study.privacy is not None and self.study.privacy.evaluation == "noised"
        return arrays((noised_scores_of if noised else scores_of)(self.name, part, images).to_arrays())

    def with_account(self, content: RecordDict, number: int) -> RecordDict:
        """Add what a private study's clinic says of its privacy: more is spent from round to round."""
        privacy = self.study.privacy
        if privacy is not None:
            numbers = {"epsilon": 0.1 * number, "noise_multiplier": NOISE}
            if privacy.evaluation == "noised":
                numbers["evaluation"] = EVALUATION_NOISE
            content["account"] = MetricRecord(numbers)
            content["ledger"] = ConfigRecord({"head": HEADS[self.name]})
        return content

    def trained(self, model: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
        def noise(name: str, shape: tuple[int, ...]) -> np.ndarray:
            return np.random.default_rng(seed_for(0, self.name, number, name)).standard_normal(shape)

        return {n: (0.5 * tensor + noise(n, tensor.shape)).astype(np.float32) for n, tensor in model.items()}

    def summarise(self, request: RecordDict) -> RecordDict:
        moments = {part: arrays(self.moments(part).to_arrays()) for part in messages.SUMMARISED}
        return self.with_account(RecordDict({"request": request.config_records["request"], **moments}), 1)

    def moments(self, part: str) -> NoisyMoments:
        """The moments of a part, the same each time."""
        rng, units = np.random.default_rng(seed_for(0, self.name, part)), self.images if part == "train" else 9
        features = rng.normal(0, 0.4, (units, self.study.model.neck or 1)).astype(np.float32)
        content = (features, np.arange(units) % 3 == 0, [str(unit) for unit in range(units)])
        return noised_moments({part: content}, of_moments(self.study, NOISE), NoiseSource(rng.bytes))[part]

    def evaluate(self, request: RecordDict) -> RecordDict:
        histograms = {part: self.scores(part, images) for part, images in {"validation": 9, "test": 12}.items()}
        content = RecordDict({"request": request.config_records["request"], **histograms})
        if attributes := noised_attributes(self.study):
            cells = subgroups_of(self.name, self.study, attributes, 12)
            named = {f"{cell}/{n}": a for cell, h in cells.items() for n, a in h.to_arrays().items()}
            content["subgroups"] = arrays(named)
        return self.with_account(content, self.study.federation.rounds + 1)


class FakeGrid:
    """Hands each message to its node's clinic and keeps the answer until it is pulled.

    Args:
        clinics: by node id.
        order: permutes the replies of a pull; None leaves them in the order of the requests.
        trickle: a pull returns one reply at most.
        unreachable: nodes that no message can be sent to.
    """

    def __init__(
        self,
        clinics: Mapping[int, Callable[[Message], Answer]],
        *,
        order: Callable[[list[Message]], list[Message]] | None = None,
        trickle: bool = False,
        unreachable: Iterable[int] = (),
    ) -> None:
        # Flower's own grids set these before a ServerApp runs.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.clinics = clinics
        self.order = order or (lambda replies: replies)
        self.trickle = trickle
        self.unreachable = set(unreachable)
        self.replies: dict[str, Message] = {}
        self.sent: list[Message] = []
        self.pulls = 0

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.clinics]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            node = message.metadata.dst_node_id
            if node in self.unreachable:
                continue  # as Flower's in-memory grid does
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            self.sent.append(message)
            identifiers.append(identifier)
            answer = self.clinics[node](message)
            if answer is not None:
                reply = Message(answer, reply_to=message)
                if isinstance(answer, Error):
                    reply.metadata.__dict__["_src_node_id"] = 1  # the SuperLink's own, whoever failed
                self.replies[identifier] = reply
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulls += 1
        ready = self.order([self.replies[i] for i in message_ids if i in self.replies])
        if self.trickle:
            ready = ready[:1]
        for reply in ready:
            del self.replies[reply.metadata.reply_to_message_id]
        return ready


class Recorder:
    """An observer that keeps every call with its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def started(self, clinics, first_round, rounds) -> None:
        self.calls.append(("started", sorted(clinics), first_round, rounds))

    def watch(self, progress) -> None:
        self.calls.append(("watch", progress))

    def round_started(self, round_number, clinics) -> None:
        self.calls.append(("round_started", round_number, clinics))

    def replied(self, clinic, error, declined=False) -> None:
        self.calls.append(("declined" if declined else "replied", clinic, error))

    def noticed(self, text: str) -> None:
        self.calls.append(("noticed", text))

    def waiting(self) -> None:
        self.calls.append(("waiting",))

    def round_finished(self, round_number, loss, seconds) -> None:
        self.calls.append(("round_finished", round_number, loss))

    def evaluating(self, clinics) -> None:
        self.calls.append(("evaluating", clinics))

    def of(self, kind: str) -> list[tuple[object, ...]]:
        return [call for call in self.calls if call[0] == kind]


INITIAL = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "b": np.zeros(3, np.float32)}


def clinics_of(study: StudyProtocol, names: str = "abc") -> list[FakeClinic]:
    return [FakeClinic(name, study, images=20 + 10 * index) for index, name in enumerate(names)]


def grid_of(clinics: list[FakeClinic], first_node: int = 100, **options) -> FakeGrid:
    return FakeGrid({first_node + index: clinic for index, clinic in enumerate(clinics)}, **options)


class Run:
    """A run folder and what is needed to conduct its study, more than once."""

    def __init__(
        self,
        path: Path,
        study: StudyProtocol,
        grid: FakeGrid,
        initial: Mapping[str, np.ndarray] = INITIAL,
        expected: int | None = None,
        **conduct,
    ) -> None:
        self.study, self.grid, self.initial = study, grid, dict(initial)
        self.folder = RunFolder.create(path, study) if not path.exists() else RunFolder.open(path)
        self.observer, self.stop = Recorder(), threading.Event()
        expected = len(grid.clinics) if expected is None else expected
        self.terms = Conduct(**{"expected": expected, "stop": self.stop, "poll_seconds": POLL_SECONDS, **conduct})

    def conduct(self) -> Outcome:
        rounds = conductor(self.study)(self.study, self.folder, self.initial, self.terms, self.observer)
        rounds.conduct(exchange.FlowerChannel(self.grid))
        assert rounds.outcome is not None
        return rounds.outcome

    def events(self, kind: str) -> list[dict]:
        return [event for event in self.folder.events() if event["event"] == kind]

    def timeless(self) -> list[dict]:
        return [{key: value for key, value in event.items() if key != "seconds"} for event in self.folder.events()]


def assert_equal(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


def changed(**records: Callable[[RecordDict], object]) -> Tamper:
    """Replace records of an honest answer; a record that becomes None is taken out."""

    def tamper(content: RecordDict) -> RecordDict:
        for name, make in records.items():
            value = make(content)
            if value is None:
                del content[name]
            else:
                content[name] = value
        return content

    return tamper


def metrics(**values: float) -> Tamper:
    return changed(metrics=lambda c: MetricRecord({**c.metric_records["metrics"], **values}))


def counted_rounds(clinic: FakeClinic) -> list[int]:
    """The rounds that a clinic was asked to train in, with repetitions."""
    return [number for kind, number in clinic.asked if kind == messages.TRAIN]
