"""The targets: every reader of bytes that come from somebody else, with valid ones to begin from."""

import functools
import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.mutations import HOSTILE, mutated, mutated_member, mutated_values

STUDY_DIGEST = "5" * 64


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: of the target.
        cases: how many `make test` tries.
        make: makes an input, by a seeded generator alone.
        read: reads it; may use a folder, which is the target's own.
    """

    name: str
    cases: int
    make: Callable[[Random], Any]
    read: Callable[[Any, Path], object]


def bytes_of(seeds: Callable[[], Sequence[bytes]]) -> Callable[[Random], bytes]:
    """Make inputs of valid contents, which are made once."""
    found = functools.cache(seeds)
    return lambda random: mutated(random.choice(found()), random, found())


def named_of(seeds: Callable[[], Sequence[tuple[str, bytes]]]) -> Callable[[Random], tuple[str, bytes]]:
    """Make inputs of valid contents of several kinds, each with the name of its kind."""
    found = functools.cache(seeds)

    def make(random: Random) -> tuple[str, bytes]:
        name, content = random.choice(found())
        if name.endswith(".xlsx") and random.random() < 0.7:
            return name, mutated_member(content, random)
        if name.endswith((".json", ".jsonl", ".yaml")) and random.random() < 0.6:
            return name, mutated_values(name, content, random)
        return name, mutated(content, random)

    return make


def _pictures() -> list[bytes]:
    from tests.common.data.made_pictures import dicom_bytes, encapsulated, file_bytes, jpeg, native

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (72, 64, 3), np.uint8))
    found = [jpeg(), jpeg(progressive=True), dicom_bytes(native()), dicom_bytes(encapsulated(jpeg(), "YBR_FULL_422"))]
    found += [file_bytes(picture, kind) for kind in ("PNG", "BMP", "GIF", "WEBP", "TIFF", "JPEG")]
    found += [file_bytes(picture, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    return [*found, file_bytes(picture.convert("P"), "PNG"), file_bytes(picture.convert("L"), "JPEG")]


def _decode(content: bytes, _folder: Path) -> object:
    from melfed.common.data.images.decoder import decode_bytes

    return decode_bytes(content, 32)


def _tables() -> list[tuple[str, bytes]]:
    from openpyxl import Workbook

    rows = [
        ["image", "diagnosis", "patient_id", "age_approx", "sex", "anatom_site_general"],
        ["a", "melanoma", "P1", "45", "female", "torso"],
        ["b", "nevus", "P2", "50.5", "male", "head/neck"],
        ["c", "Blue naevus", "P2", "", "", ""],
    ]
    book = Workbook()
    for row in rows:
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    isic = [["isic_id", "diagnosis_1", "diagnosis_3", "patient_id"], ["a", "Malignant", "Melanoma, NOS", "IP_1"]]
    ham = [["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]]
    ham += [
        ["HAM_1", "a", "mel", "histo", "80.0", "male", "scalp"],
        ["HAM_2", "b", "nv", "histo", "75.0", "male", "ear"],
    ]
    texts = [(f"table.{suffix}", _separated(rows, by)) for suffix, by in (("csv", ","), ("tsv", "\t"), ("txt", ";"))]
    texts += [("table.csv", _separated(isic, ",")), ("table.csv", _separated(ham, ","))]
    texts += [("table.csv", _separated(rows, ",").decode().encode("utf-16")), ("table.xlsx", file.getvalue())]
    return texts


def _separated(rows: Sequence[Sequence[str]], by: str) -> bytes:
    return "".join(by.join(row) + "\n" for row in rows).encode()


def _read_table(made: tuple[str, bytes], folder: Path) -> object:
    from melfed.common.data.records import read_table

    name, content = made
    root = folder / name.replace(".", "-")
    if not root.exists():
        root.mkdir()
        for image in "abc":
            (root / f"{image}.jpg").touch()
    (root / name).write_bytes(content)
    # Not strict, nothing in it is refused for a row; strict, everything is.
    lenient = read_table(root, strict=False)
    return lenient, read_table(root, strict=True)


def _updates() -> list[tuple[str, bytes]]:
    from melfed.common.compression import compressed
    from melfed.common.tensors import to_bytes
    from tests.server.fakes import INITIAL

    changed = {name: tensor + 0.5 for name, tensor in INITIAL.items()}
    packed = [(kind, to_bytes(compressed(changed, INITIAL, kind, 1))) for kind in ("float16", "int8")]
    return [("none", to_bytes(changed)), *packed]


def _read_update(made: tuple[str, bytes], _folder: Path) -> object:
    from flwr.app import Array

    from melfed.common.compression import restored
    from melfed.common.messages import PACKED, TENSORS, unpack
    from melfed.common.tensors import check_tensors, shapes
    from tests.server.fakes import INITIAL

    kind, content = made
    tensors = unpack(TENSORS, {PACKED: Array(dtype="uint8", shape=(len(content),), stype=PACKED, data=content)})
    if kind != "none":
        tensors = dict(restored(tensors, INITIAL, kind))  # type: ignore[arg-type]
    return check_tensors(tensors, shapes(INITIAL))


SETTINGS = (*(value for value in HOSTILE if not isinstance(value, dict)), b"\xff\x00", [0.5] * 50)
"""What a setting or a metric of a message is made to be."""


def _reply(random: Random) -> Any:
    """Return an honest answer of a clinic in which a few things are others."""
    from flwr.app import RecordDict

    from melfed.common import messages
    from tests.server.fakes import INITIAL, FakeClinic, study_of

    private = random.choice((None, {"epsilon": 3.0}, {"epsilon": 3.0, "evaluation": "public"}))
    study = study_of(rounds=2, privacy=private)
    clinic, kind = FakeClinic("a", study), random.choice((messages.DESCRIBE, messages.TRAIN, messages.EVALUATE))
    from melfed.server.flower.channel import request

    asked = request(2, study, "0" * 16, INITIAL)
    answers = {messages.DESCRIBE: clinic.describe, messages.TRAIN: clinic.train, messages.EVALUATE: clinic.evaluate}
    content: RecordDict = answers[kind](asked)
    for _ in range(random.choice((0, 1, 1, 1, 1, 2))):
        _spoil(content, random)
    return study, kind, content


def _spoil(content: Any, random: Random) -> None:
    from flwr.app import Array, ArrayRecord, ConfigRecord

    name = random.choice(sorted(content))
    record = content[name]
    if random.random() < 0.1:
        del content[name]
    elif random.random() < 0.05:
        del content[name]
        content[name] = ConfigRecord({"reason": "it is another kind of record"})
    elif isinstance(record, ArrayRecord):
        key = random.choice(sorted(record))
        array = record[key]
        kind = array.stype if random.random() < 0.9 else "numpy.ndarray"
        spoilt = Array(dtype=array.dtype, shape=array.shape, stype=kind, data=mutated(array.data, random))
        del content[name]
        content[name] = ArrayRecord({key if random.random() < 0.9 else "other": spoilt})
    elif record:
        key = random.choice(sorted(record))
        try:
            record[key] = random.choice(SETTINGS)
        except (TypeError, ValueError):  # no message can hold it
            del record[key]


def _read_reply(made: Any, _folder: Path) -> object:
    from melfed.common import messages
    from melfed.common.messages import IDENTITY
    from melfed.server.federation.reply_checks import Intake, check_name
    from melfed.server.flower.channel import Reply
    from melfed.server.runs.counts import Counts
    from tests.server.fakes import INITIAL, FakeClinic

    study, kind, content = made
    reply, intake = Reply(1, content, None, 0), Intake(study, "0" * 16)
    if kind == messages.DESCRIBE:
        check_name(reply.text(IDENTITY, "clinic"))
        return intake.counts(reply, "a")
    honest: Counts = intake.counts(Reply(1, FakeClinic("a", study).describe(content), None, 0), "a")
    if kind == messages.TRAIN:
        return intake.update(reply, 2, honest, INITIAL)
    return intake.evaluation(reply, 2, honest, INITIAL)


def _studies() -> list[tuple[str, bytes]]:
    from melfed.common.study.file import study_yaml
    from melfed.common.study.protocol import ModelSpec, PrivacySpec, StudyProtocol

    model = ModelSpec(backbone="simple_cnn", pretrained=False)
    private = StudyProtocol(name="s", model=model, privacy=PrivacySpec(unit="patient", epsilon=3.0))
    short = b"name: s\nmodel: {backbone: simple_cnn, pretrained: false}\nprivacy: {unit: lesion, epsilon: 3}\n"
    return [
        ("sent.json", private.model_dump_json().encode()),
        ("study.yaml", study_yaml(private).encode()),
        ("study.yaml", short),
    ]


def _read_study(made: tuple[str, bytes], folder: Path) -> object:
    from melfed.client.worker.service import read_sealed
    from melfed.common.study.file import read_study
    from melfed.common.study.recipe import resolve

    name, content = made
    if name == "sent.json":
        return read_sealed(content.decode("utf-8", "replace")).digest
    path = folder / name
    path.write_bytes(content)
    return resolve(read_study(path))[0].digest


def _policies() -> list[tuple[str, bytes]]:
    from melfed.client.approval.approvals import Approval
    from tests.client.clinics import clinic_text

    example = Path(__file__).resolve().parents[2] / "client" / "clinic.example.yaml"
    approval = Approval(digest=STUDY_DIGEST, study="s", by="it", time="2026-01-01T00:00:00+00:00", runs=2, epsilon=3.0)
    return [
        ("clinic.yaml", example.read_bytes()),
        ("clinic.yaml", clinic_text(tell={"budget": True}).encode()),
        (f"{STUDY_DIGEST}.json", approval.model_dump_json(indent=1).encode()),
    ]


def _read_policy(made: tuple[str, bytes], folder: Path) -> object:
    from melfed.client.approval.approvals import effective_policy
    from melfed.client.config.clinic import read_clinic
    from tests.client.clinics import a_clinic

    name, content = made
    if name == "clinic.yaml":
        (folder / name).write_bytes(content)
        return read_clinic(folder / name)
    config = a_clinic(folder / "approving")
    config.approvals.mkdir(parents=True, exist_ok=True)
    (config.approvals / name).write_bytes(content)
    return effective_policy(config)


@functools.cache
def _ledgers() -> list[tuple[str, bytes]]:
    from tests.client.ledger.ledgers import written

    with TemporaryDirectory() as folder:
        path = written(Path(folder, "ledger.jsonl"), 3)
        return [(name, Path(folder, name).read_bytes()) for name in (path.name, f"{path.name}.head")]


def _read_ledger(made: tuple[str, bytes], folder: Path) -> object:
    from melfed.client.ledger.ledger import verify

    for name, content in _ledgers():
        (folder / name).write_bytes(content)
    (folder / made[0]).write_bytes(made[1])
    return verify(folder / "ledger.jsonl")


def _checkpoints() -> list[bytes]:
    from melfed.server.runs.checkpoints import Checkpoint, save_checkpoint
    from tests.server.fakes import INITIAL

    with TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), Checkpoint(2, STUDY_DIGEST, dict(INITIAL), {}, dict(INITIAL)))
        return [path.read_bytes() for path in Path(folder).iterdir()]


def _read_checkpoint(content: bytes, folder: Path) -> object:
    from melfed.server.runs.checkpoints import last_checkpoint

    (folder / "round-000002.safetensors").write_bytes(content)
    return last_checkpoint(folder, STUDY_DIGEST)


@functools.cache
def _run_files() -> list[tuple[str, bytes]]:
    from melfed.server.runs.request import RunRequest
    from melfed.server.runs.state import RunState
    from tests.server.fake_run import PRIVATE, FakeRun

    with TemporaryDirectory() as name:
        folder = FakeRun(images=(60, 40, 30, 20), rounds=2, privacy=PRIVATE).write(Path(name, "run")).path
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    files["state.json"] = RunState(status="running").model_dump_json().encode()
    files["request.json"] = RunRequest(clinics=("a", "b")).model_dump_json().encode()
    return sorted(files.items())


def _read_run(made: tuple[str, bytes], folder: Path) -> object:
    from melfed.common.metrics.noisy_histogram import histogram_from_lists
    from melfed.server.runs.folder import RunFolder
    from melfed.server.runs.request import read_request
    from melfed.server.runs.state import read_state

    for name, content in _run_files():
        (folder / name).write_bytes(content)
    (folder / made[0]).write_bytes(made[1])
    run = RunFolder.open(folder)
    events = list(run.events())
    scores = [histogram_from_lists(event["histogram"]) for event in events if isinstance(event.get("histogram"), dict)]
    return events, scores, run.study(), run.summary(), run.identity, read_state(folder), read_request(folder)


def _logs() -> list[tuple[str, bytes]]:
    from melfed.common.audit.events import Event
    from melfed.common.audit.log import AuditLog

    with TemporaryDirectory() as folder:
        log = AuditLog(Path(folder, "audit.jsonl"), "test")
        for event in itertools.islice(Event, 0, 30, 5):
            log.record(event, **dict.fromkeys(event.fields, "x"))
        return [("audit.jsonl", Path(folder, "audit.jsonl").read_bytes())]


def _read_log(made: tuple[str, bytes], folder: Path) -> object:
    from melfed.common.audit.log import read_log, verify_log
    from melfed.common.errors import DataError

    path = folder / made[0]
    path.write_bytes(made[1])
    rows = list(read_log(path))
    if error := verify_log(path).error:
        raise DataError(error)  # it is told, not raised
    return rows


def _servers() -> list[tuple[str, bytes]]:
    from tests.server.coordinator import make_kits

    with TemporaryDirectory() as folder:
        config = make_kits(Path(folder, "kits"), "ab")
        (record,) = [path for path in config.clinics.iterdir() if path.stem == "a"]
        said = {"clinics": {"a": {"version": "1", "approved": [STUDY_DIGEST], "budget": 1.5, "at": "2026"}}}
        return [
            ("server.yaml", config.path.read_bytes()),
            ("a.json", record.read_bytes()),
            ("said.json", json.dumps(said).encode()),
        ]


def _read_server(made: tuple[str, bytes], folder: Path) -> object:
    from melfed.server.clinics.registry import read_record
    from melfed.server.clinics.self_reports import read_said
    from melfed.server.config import read_server

    name, content = made
    path = folder / name
    path.write_bytes(content)
    return {"server.yaml": read_server, "a.json": read_record, "said.json": read_said}[name](path)


TARGETS = (
    Target("images", 150, bytes_of(_pictures), _decode),
    Target("tables", 60, named_of(_tables), _read_table),
    Target("updates", 200, named_of(_updates), _read_update),
    Target("replies", 60, _reply, _read_reply),
    Target("studies", 100, named_of(_studies), _read_study),
    Target("policies", 60, named_of(_policies), _read_policy),
    Target("ledgers", 150, named_of(_ledgers), _read_ledger),
    Target("checkpoints", 200, bytes_of(_checkpoints), _read_checkpoint),
    Target("runs", 60, named_of(_run_files), _read_run),
    Target("logs", 150, named_of(_logs), _read_log),
    Target("servers", 100, named_of(_servers), _read_server),
)
"""All of them; `events` of a run are among its files."""
