"""A clinic as its coordinator sees it: a folder with a table and images behind the service that answers for it.

Nothing between the table and the answer is left out: the table is read, the pictures are decoded and divided, the
worker keeps its ledger and goes by its policy, and `melfed.client.worker.grpc_server` turns questions and errors into
the messages of `client/rpc/worker.proto`. Only the socket is missing. State is kept where the caller wants it, so that
an audit can ask a clinic that was never asked before as often as it likes, without decoding the pictures each time.
"""

import contextlib
import csv
import io
import itertools
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import grpc
import numpy as np
import numpy.typing as npt
import torch
from google.protobuf.message import Message
from PIL import Image

from melfed.client.config.clinic import ClinicConfig, ClinicFile, DataSection
from melfed.client.config.folders import prepare_worker
from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import ClinicData
from melfed.client.data.loading import clinic_data, stamp
from melfed.client.data.split import Part, part_of
from melfed.client.privacy.plan import privacy_of
from melfed.client.privacy.units import unit_of
from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.worker.grpc_server import Servicer
from melfed.client.worker.guard import Protection, smallest_noise
from melfed.client.worker.outbox import Outbox
from melfed.client.worker.service import Service
from melfed.client.worker.worker import ClinicWorker
from melfed.common.audit.log import AuditLog
from melfed.common.data.identity import scoped_id
from melfed.common.data.records import LesionRecord
from melfed.common.errors import ServiceError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import in_group, to_bytes

Arrays = Mapping[str, npt.NDArray[np.generic]]
Pixels = npt.NDArray[np.uint8]

CLINIC = "audited"
FLOWER_RUN = 1
PATIENCE_SECONDS = 600.0
COLUMNS = ("image", "target", "diagnosis", "patient_id", "lesion_id", "dup_group", "age", "sex", "site", "source")


@dataclass(frozen=True)
class Question:
    """What a coordinator asks.

    Attributes:
        kind: `describe`, `train` or `evaluate`.
        run: the identity of the run that it names.
        round: 1-based, of `train`.
        tensors: the model that it sends.
        called_off: whether it calls the work off as soon as that has begun.
        counts: of `describe`, whether it asks for them.
    """

    kind: str
    run: str
    round: int = 0
    tensors: Arrays = field(default_factory=dict)
    called_off: bool = False
    counts: bool = True


@dataclass(frozen=True)
class Seen:
    """What came back: the message (a description, an answer or a failure), the tensors, and their bytes."""

    message: Message
    arrays: Arrays
    size: int


class AuditedClinic:
    """A clinic in a folder; whoever uses it closes it (`with`)."""

    def __init__(
        self,
        folder: Path,
        policy: ClinicPolicy,
        device: torch.device,
        weights: Path | None = None,
        worker: Callable[..., ClinicWorker] = ClinicWorker,
    ) -> None:
        """Open a clinic whose table and images lie in `folder/data`.

        Args:
            folder: of the clinic alone; its state is kept there too.
            policy: what the clinic allows.
            device: where it trains.
            weights: folder of pretrained weights; None: they are in a package.
            worker: makes the worker of a study, from the arguments of `ClinicWorker`.
        """
        self._make = worker
        self.policy, self.device, self.weights = policy, device, weights
        file = ClinicFile(name=CLINIC, data=DataSection(folder="data"), policy=policy)
        self.config = ClinicConfig(folder / "clinic.yaml", file)
        prepare_worker(self.config)
        self._call_off = False
        self._service: Service | None = None

    def __enter__(self) -> "AuditedClinic":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the service."""
        if self._service is not None:
            self._service.stop(PATIENCE_SECONDS)
            self._service = None

    def forget(self, features: bool = False) -> None:
        """Begin anew as a clinic that nobody has asked yet; its key and its decoded pictures stay.

        Args:
            features: whether to drop what the network's frozen part has made of the pictures as well.
        """
        self.close()
        if features:
            shutil.rmtree(self.config.cache / "features", ignore_errors=True)
        state = self.config.worker_state
        for path in (*state.glob("*.jsonl*"), *state.glob("*.safetensors"), *state.glob("outbox/*")):
            path.unlink()

    def take_key(self, key: bytes) -> None:
        """Use a secret that the auditor knows in place of one that the clinic makes."""
        path = self.config.ledger.with_suffix(".key")
        path.touch(mode=0o600)
        path.write_bytes(key)

    def data(self, study: StudyProtocol) -> ClinicData:
        """Return the clinic's images, divided as its worker divides them. Raises MelfedError as the worker."""
        return clinic_data(self.config, study)

    def ask(self, study: StudyProtocol, question: Question) -> Seen:
        """Ask the clinic's worker, and return what it sends."""
        content = to_bytes(question.tensors)
        asked = pb.Question(
            study=study.canonical(),
            digest=study.digest,
            run=question.run,
            round=question.round,
            deadline_seconds=PATIENCE_SECONDS,
            flower_run=FLOWER_RUN,
            size=len(content),
            without_counts=not question.counts,
        )
        servicer, context = Servicer(self._asked()), _Context()
        self._call_off = question.called_off
        if question.kind == "describe":
            reply = servicer.Describe(asked, context)
            message = reply.failure if reply.HasField("failure") else reply.description
            return Seen(message, {}, reply.ByteSize())
        stream = [pb.QuestionPart(question=asked), *(pb.QuestionPart(tensors=part) for part in wire.parts(content))]
        ask = servicer.Train if question.kind == "train" else servicer.Evaluate
        first, *parts = ask(iter(stream), context)
        if first.HasField("failure"):
            return Seen(first.failure, {}, first.ByteSize())
        received = [part.tensors for part in parts]
        groups = wire.receive(first.answer, received).groups
        arrays = {name: array for group, held in groups.items() for name, array in in_group(group, held).items()}
        return Seen(first.answer, arrays, first.ByteSize() + sum(map(len, received)))

    def _asked(self) -> Service:
        if self._service is None:
            config, audit = self.config, AuditLog(self.config.audit_log, "worker")
            outbox = Outbox(config.worker_state / "outbox")
            self._service = Service(
                config.name, self._worker, lambda: self.policy, outbox, audit, stamp=lambda: stamp(config)
            )
        return self._service

    def _worker(self, study: StudyProtocol) -> ClinicWorker:
        protection = Protection(self.config.ledger, self.policy)
        tell = self.config.file.tell
        return self._make(self.data(study), study, self.weights, self.device, self._under_way, protection, tell)

    def _under_way(self, _images: int) -> None:
        """Call the work off where the coordinator does: at a moment that no patient chooses, if there is any at all."""
        if self._call_off and self._service is not None:
            self._call_off = False
            self._service.cancel(FLOWER_RUN)


class _Context:
    """Of a call that comes over no wire."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End a call without an answer."""
        raise ServiceError(f"{code.name}: {details}")


@dataclass(frozen=True)
class Picture:
    """One row of a clinic's table, and the file that it names: the bytes of an image."""

    record: LesionRecord
    content: bytes


def patients(
    start: str, count: int, study: StudyProtocol, key: bytes, part: Part | None, like: LesionRecord
) -> list[LesionRecord]:
    """Return so many patients of one image each, whose names lead to a part of the clinic (None: to whichever).

    Args:
        start: of their names.
        count: how many.
        study: whose parts and unit are meant.
        key: the clinic's secret, which an auditor knows.
        part: where they are to be.
        like: what they are like, but for the names of image, patient and lesion; images have no ending yet.
    """
    unit = privacy_of(study).unit
    found: list[LesionRecord] = []
    for number in itertools.count():
        if len(found) == count:
            break
        name = f"{start}-{number}"
        record = replace(like, image=name, patient_id=name, lesion_id=name, dup_group=None)
        # As the clinic will read it: ids are of their source, a lesion's of its patient, and a unit of one image is
        # called by that image's own name.
        person = scoped_id(record.source, name)
        read = replace(record, image=f"{name}-0.png", patient_id=person, lesion_id=scoped_id(person, name))
        named = unit_of(read, unit)
        if part is None or part_of(str(named), CLINIC, study.partition, key) == part:
            found.append(record)
    return found


def nameless(target: int, diagnosis: str | None) -> LesionRecord:
    """Return a record of the audited clinic of which nothing else is known; see `patients`."""
    return LesionRecord(
        image="",
        target=target,
        diagnosis=diagnosis,
        patient_id=None,
        lesion_id=None,
        dup_group=None,
        age=None,
        sex=None,
        site=None,
        source=CLINIC,
    )


def images_of(patient: LesionRecord, images: int) -> list[LesionRecord]:
    """Return a patient of one image with so many, under names that go with `patients`."""
    return [replace(patient, image=f"{patient.image}-{number}.png") for number in range(images)]


def png(pixels: Pixels) -> bytes:
    """Return pixels, uint8 (height, width, 3), as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_data(folder: Path, pictures: Iterable[Picture]) -> None:
    """Write a clinic's table and images to `folder/data`; nothing else stays there."""
    data = folder / "data"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    pictures, rows = list(pictures), []
    for stale in {path.name for path in data.glob("*.png")} - {picture.record.image for picture in pictures}:
        (data / stale).unlink()
    for picture in pictures:
        row = asdict(picture.record)
        rows.append(["" if row[column] is None else row[column] for column in COLUMNS])
        place = data / picture.record.image
        if not place.exists() or place.read_bytes() != picture.content:
            place.write_bytes(picture.content)
    with (data / "metadata.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows([COLUMNS, *rows])


def policy_for(study: StudyProtocol, epsilon: float) -> ClinicPolicy:
    """Return a policy that allows a study, and for everything that is asked no more than an ε."""
    privacy, weight = privacy_of(study), study.training.positive_weight
    return ClinicPolicy(
        epsilon=epsilon,
        delta=privacy.delta,
        noise_multiplier=smallest_noise(study) / 2,
        clipping_norm=privacy.clipping_norm,
        smallest_clipping_norm=privacy.clipping_norm,
        unit=privacy.unit,
        studies=(study.digest,),
        weights="any",
        positive_weight=max(weight, 1 / weight),
        views=privacy.views,
        image_size=study.data.image_size,
        public_evaluation=privacy.evaluation == "public",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the made-up clinics log from the auditor's terminal: it is no news of a real one."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
