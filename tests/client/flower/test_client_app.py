"""The messenger: Flower messages in, the worker's answers out, and refusals with their reason."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.config.clinic import TellSection
from melfed.client.config.policy import ClinicPolicy
from melfed.client.flower import client_app as app_module
from melfed.client.flower.client_app import deployed_app, make_app
from melfed.client.ledger.ledger import verify
from melfed.client.models.store import ModelStore
from melfed.client.rpc.api import melfed_version
from melfed.client.rpc.codec import pack_failure, unpack_failure
from melfed.client.worker.guard import Protection
from melfed.client.worker.worker import ClinicWorker
from melfed.common import messages
from melfed.common.data.subgroups import cell_names
from melfed.common.errors import DataError, DeclinedError, MelfedError
from melfed.common.messages import PACKED, unpack
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import NoisyHistogram, histograms_from_arrays
from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.flower import channel as exchange
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.fake_worker import STUDY as FAKE
from tests.client.fake_worker import TENSORS as FAKE_TENSORS
from tests.client.fake_worker import Clinic
from tests.client.ledger.ledgers import too_little
from tests.client.models.delivered import FACTS, RUN, STUDY, clinic_for_models, deliveries, signed
from tests.client.models.delivered import TENSORS as MODEL_TENSORS
from tests.client.served import served
from tests.client.small import CPU, small_model, small_study

REPOSITORY = Path(__file__).resolve().parents[3]
NODE = 7


@pytest.fixture(autouse=True)
def _identity() -> None:
    # Flower sets these before an app runs.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@pytest.fixture(scope="module")
def study() -> StudyProtocol:
    return small_study()


@pytest.fixture
def worker(phantom_clinics: VirtualClinics, study: StudyProtocol) -> ClinicWorker:
    return ClinicWorker(phantom_clinics.clinics[0], study, None, CPU)


@pytest.fixture
def tensors(study: StudyProtocol) -> Tensors:
    return trainable_tensors(small_model(study))


def ask(app: ClientApp, kind: str, content: RecordDict) -> RecordDict:
    message = Message(content, dst_node_id=NODE, message_type=kind)
    message.metadata.__dict__["_message_id"] = "question"
    context = Context(run_id=1, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
    reply = app(message=message, context=context)
    assert reply.metadata.reply_to_message_id == "question"
    assert not reply.has_error()
    return reply.content


def app_of(worker: ClinicWorker) -> ClientApp:
    return make_app(lambda _context, _message: worker)


def question(
    round_number: int, study: StudyProtocol, run: str, tensors: Tensors | None = None, digest: str | None = None
) -> RecordDict:
    content = exchange.request(round_number, study, run, tensors)
    if digest is not None:
        content.config_records["request"]["digest"] = digest
    return content


def arrays(content: RecordDict, name: str) -> dict[str, np.ndarray]:
    return unpack(name, content.array_records[name])


def refusal(content: RecordDict, clinic: str | None = "phantom_north") -> str:
    assert set(content) == {"refused", "identity"}
    expected = {"version": melfed_version(), **({"clinic": clinic} if clinic else {})}
    assert dict(content.config_records["identity"]) == expected
    return str(content.config_records["refused"]["reason"])


def test_describe(worker: ClinicWorker, study: StudyProtocol) -> None:
    content = ask(app_of(worker), messages.DESCRIBE, question(0, study, "run"))
    assert set(content) == {"identity", "counts"}
    identity = {"clinic": "phantom_north", "digest": study.digest, "version": melfed_version(), "synthetic": True}
    assert dict(content.config_records["identity"]) == identity
    assert dict(content.metric_records["counts"]) == {**worker.describe("run").counts, "noise": 0.0}


def test_train(worker: ClinicWorker, study: StudyProtocol, tensors: Tensors) -> None:
    content = ask(app_of(worker), messages.TRAIN, question(2, study, "run", tensors))
    expected = worker.train(tensors, 2, study.digest)
    assert set(content) == {"request", "tensors", "validation", "metrics"}
    assert dict(content.config_records["request"]) == {"round": 2, "digest": study.digest, "run": "run"}
    learnt = arrays(content, "tensors")
    assert learnt.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert learnt[name].dtype == np.float32
        np.testing.assert_array_equal(learnt[name], tensor)
    assert ScoreHistogram.from_arrays(arrays(content, "validation")).to_lists() == expected.validation.to_lists()
    metrics = content.metric_records["metrics"]
    assert (metrics["weight"], metrics["loss"]) == (expected.weight, expected.loss)
    assert set(metrics) == {"weight", "loss"}


def test_nothing_is_said_of_a_validation_that_the_study_does_not_ask_for(
    worker: ClinicWorker, study: StudyProtocol, tensors: Tensors
) -> None:
    content = ask(app_of(worker), messages.TRAIN, question(1, study, "run", tensors))
    assert set(content) == {"request", "tensors", "metrics"}


def test_evaluate(worker: ClinicWorker, study: StudyProtocol, tensors: Tensors) -> None:
    content = ask(app_of(worker), messages.EVALUATE, question(2, study, "run", tensors))
    assert set(content) == {"request", "validation", "test"}
    expected = worker.evaluate(tensors, study.digest)
    for part in ("validation", "test"):
        histogram = ScoreHistogram.from_arrays(arrays(content, part))
        assert histogram.to_lists() == expected[part].to_lists()


def test_subgroups_are_one_record(worker: ClinicWorker, study: StudyProtocol, tensors: Tensors) -> None:
    asked = study.with_changes("evaluation", subgroups=("sex", "source", "age"))
    worker = ClinicWorker(worker.data, asked, None, CPU)
    content = ask(app_of(worker), messages.EVALUATE, question(2, asked, "run", tensors))
    assert set(content) == {"request", "validation", "test", "subgroups"}
    found = histograms_from_arrays(arrays(content, "subgroups"))
    assert set(found) == set(cell_names(("sex", "age")))
    expected = worker.evaluate(tensors, asked.digest)
    assert all(h.to_lists() == expected[f"subgroups/{cell}"].to_lists() for cell, h in found.items())


@pytest.mark.parametrize("kind", [messages.TRAIN, messages.EVALUATE])
def test_another_study_is_refused_with_the_reason(worker: ClinicWorker, tensors: Tensors, kind: str) -> None:
    content = ask(app_of(worker), kind, question(1, worker.study, "run", tensors, digest="f" * 64))
    assert refusal(content) == f"clinic phantom_north holds study {worker.study.digest[:12]}, not ffffffffffff"


@pytest.mark.parametrize("kind", [messages.TRAIN, messages.EVALUATE])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"head.bias": np.zeros(3, np.float32)}, "tensor head.bias has shape (3,), not (1,)"),
        ({"head.bias": np.zeros(1, np.float64)}, "tensor head.bias is float64, not float32"),
        ({"head.bias": np.full(1, np.inf, np.float32)}, "tensor head.bias holds values that are not finite"),
        ({"other": np.zeros(1, np.float32)}, "tensors do not fit the model: has unknown other (0/1 in all)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_the_reason(
    worker: ClinicWorker, tensors: Tensors, kind: str, change: Tensors, reason: str
) -> None:
    request = question(1, worker.study, "run", {**tensors, **change})
    assert refusal(ask(app_of(worker), kind, request)) == reason


def test_a_message_without_tensors_is_refused(worker: ClinicWorker) -> None:
    request = question(1, worker.study, "run")
    assert refusal(ask(app_of(worker), messages.TRAIN, request)).startswith("tensors do not fit the model: lacks head.")


def test_damaged_tensors_are_refused(worker: ClinicWorker, tensors: Tensors) -> None:
    record = ArrayRecord({PACKED: Array(dtype="uint8", shape=(8,), stype=PACKED, data=b"no array")})
    config = ConfigRecord({"round": 1, "digest": worker.study.digest, "run": "run"})
    content = RecordDict({"request": config, "tensors": record})
    assert refusal(ask(app_of(worker), messages.TRAIN, content)).startswith("tensors cannot be read: ")


def test_a_worker_that_cannot_be_found_is_a_refusal(study: StudyProtocol) -> None:
    def nobody(_context: Context, _message: Message) -> ClinicWorker:
        raise DataError("the data folder is gone")

    content = ask(make_app(nobody), messages.DESCRIBE, question(0, study, "run"))
    assert refusal(content, None) == "the data folder is gone"


def test_the_worker_is_looked_up_by_context_and_message(worker: ClinicWorker, study: StudyProtocol) -> None:
    seen: list[tuple[int, object]] = []
    app = make_app(lambda context, message: seen.append((context.node_id, message.content["request"]["run"])) or worker)
    ask(app, messages.DESCRIBE, question(0, study, "run"))
    assert seen == [(NODE, "run")]


# A private study.

PRIVATE = small_study(privacy={"unit": "patient", "noise_multiplier": 3.0, "recipe": "manual"})


def private_worker(
    clinics: VirtualClinics, folder: Path, policy: ClinicPolicy | None = None, study: StudyProtocol = PRIVATE
) -> ClinicWorker:
    return ClinicWorker(clinics.clinics[0], study, None, CPU, protection=Protection(folder / "north.jsonl", policy))


def policy(**limits: object) -> ClinicPolicy:
    return ClinicPolicy(**{"epsilon": 50.0, "studies": "any", **limits})


def private_request(round_number: int, tensors: Tensors) -> RecordDict:
    return question(round_number, PRIVATE, "a run", tensors)


def test_a_private_round_has_an_account_and_no_loss(
    phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path
) -> None:
    worker = private_worker(phantom_clinics, tmp_path)
    content = ask(app_of(worker), messages.TRAIN, private_request(2, tensors))
    assert set(content) == {"request", "tensors", "validation", "metrics", "account", "ledger"}
    assert set(content.metric_records["metrics"]) == {"weight"}
    account = worker.account()
    assert account is not None
    assert dict(content.metric_records["account"]) == {
        "epsilon": account.epsilon,
        "noise_multiplier": 3.0,
        "evaluation": account.evaluation_noise_multiplier,
    }
    assert content.config_records["ledger"]["head"] == account.head
    assert {row.run for row in verify(tmp_path / "north.jsonl").rows} == {"a run"}
    assert NoisyHistogram.from_arrays(arrays(content, "validation")).noise_std > 0


def test_a_private_evaluation_has_an_account(phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path) -> None:
    worker = private_worker(phantom_clinics, tmp_path)
    content = ask(app_of(worker), messages.EVALUATE, private_request(2, tensors))
    assert set(content) == {"request", "validation", "test", "account", "ledger"}
    assert content.metric_records["account"]["epsilon"] > 0


def test_public_evaluation_images_have_no_sigma(
    phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path
) -> None:
    study = PRIVATE.with_changes("privacy", evaluation="public")
    worker = private_worker(phantom_clinics, tmp_path, study=study)
    content = ask(app_of(worker), messages.EVALUATE, question(2, study, "a run", tensors))
    assert set(content.metric_records["account"]) == {"epsilon", "noise_multiplier"}
    ScoreHistogram.from_arrays(arrays(content, "test"))


@pytest.mark.parametrize("kind", [messages.DESCRIBE, messages.TRAIN, messages.EVALUATE])
def test_what_the_policy_forbids_is_declined_with_the_reason(
    phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path, kind: str
) -> None:
    worker = private_worker(phantom_clinics, tmp_path, policy(studies=()))
    content = ask(app_of(worker), kind, private_request(1, tensors))
    assert set(content) == {"declined", "identity"}
    reason = str(content.config_records["declined"]["reason"])
    assert reason == f"study small is declined: it is not approved here (digest {PRIVATE.digest})"


def test_a_spent_budget_is_declined_with_what_is_left(
    phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path
) -> None:
    worker = private_worker(phantom_clinics, tmp_path, policy(epsilon=0.5))
    content = ask(app_of(worker), messages.TRAIN, private_request(1, tensors))
    reason = str(content.config_records["declined"]["reason"])
    assert reason.startswith("too little is left of these patients' ε for a whole run, which counts in round 0")
    assert "is left;" not in reason
    worker.tell = TellSection(budget=True)
    content = ask(app_of(worker), messages.TRAIN, private_request(1, tensors))
    reason = str(content.config_records["declined"]["reason"])
    assert ": of ε = 0.5 at δ = 1e-05, 0 is spent and 0.5 is left; this needs " in reason


@pytest.mark.parametrize("told", [False, True])
def test_how_much_is_left_leaves_only_where_the_clinic_tells_that(
    phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path, told: bool
) -> None:
    worker = private_worker(phantom_clinics, tmp_path, policy(epsilon=0.01))
    worker.tell = TellSection(budget=told, approved=False)
    for ask_it in (
        lambda: worker.describe("run"),
        lambda: worker.train(tensors, 1, PRIVATE.digest, "run"),
        lambda: worker.evaluate(tensors, PRIVATE.digest, "run"),
    ):
        with too_little(r"0 is spent and 0\.01 is left") as caught:
            ask_it()
        outside = unpack_failure(pack_failure(worker.told(caught.value), "north"))
        assert type(outside) is DeclinedError
        assert ("0.01" in str(outside)) is told
        assert str(outside).startswith("too little is left of these patients' ε for ")


def test_reasons_that_could_tell_about_patients_stay_at_a_clinic_with_a_policy(
    phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "north.jsonl").write_text("damaged\n")
    (tmp_path / "north.key").write_bytes(bytes(32))
    request = private_request(1, tensors)
    real = ask(app_of(private_worker(phantom_clinics, tmp_path, policy())), messages.TRAIN, request)
    assert refusal(real) == "this clinic cannot answer; its own people see why"
    assert str(tmp_path) in caplog.text
    # A simulated clinic's user has to know.
    simulated = ask(app_of(private_worker(phantom_clinics, tmp_path)), messages.TRAIN, request)
    assert str(tmp_path / "north.jsonl") in refusal(simulated)


def test_reasons_about_the_study_and_the_model_that_came_are_told(
    phantom_clinics: VirtualClinics, tensors: Tensors, tmp_path: Path
) -> None:
    app = app_of(private_worker(phantom_clinics, tmp_path, policy()))
    other = question(1, PRIVATE, "a run", tensors, digest="f" * 64)
    assert refusal(ask(app, messages.TRAIN, other)).startswith("clinic phantom_north holds study ")
    wrong = private_request(1, {**tensors, "head.bias": np.zeros(3, np.float32)})
    assert refusal(ask(app, messages.TRAIN, wrong)) == "tensor head.bias has shape (3,), not (1,)"


def test_the_messenger_loads_no_torch() -> None:
    heavy = {"torch", "torchvision", "timm", "opacus", "ray"}
    code = f"import sys, melfed.client.flower.client_app; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# A deployed clinic.


@pytest.fixture
def clinic() -> Iterator[tuple[Path, Clinic]]:
    with tempfile.TemporaryDirectory(prefix="w") as name, served(Path(name)) as clinic:
        yield Path(name) / "w.sock", clinic


def test_a_deployed_app_asks_the_worker_on_its_socket(clinic: tuple[Path, Clinic]) -> None:
    socket, served_clinic = clinic
    app = deployed_app(socket)
    described = ask(app, messages.DESCRIBE, question(0, FAKE, "run"))
    assert dict(described.config_records["identity"]) == {
        "clinic": "north",
        "digest": FAKE.digest,
        "version": "1.2",
        "budget": 3.5,
        "approved": ["any"],
        "synthetic": True,
        "round_minutes": 8,
    }
    trained = ask(app, messages.TRAIN, question(2, FAKE, "run", FAKE_TENSORS))
    np.testing.assert_array_equal(arrays(trained, "tensors")["w"], FAKE_TENSORS["w"] + 2)
    assert dict(trained.config_records["request"]) == {"round": 2, "digest": FAKE.digest, "run": "run"}
    assert set(ask(app, messages.EVALUATE, question(2, FAKE, "run", FAKE_TENSORS))) == {"request", "validation", "test"}
    served_clinic.limits["studies"] = ()
    declined = ask(app, messages.TRAIN, question(2, FAKE, "run", FAKE_TENSORS))
    assert set(declined) == {"declined", "identity"}
    assert dict(declined.config_records["identity"]) == {"clinic": "north", "version": melfed_version()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": 1}, "the coordinator speaks protocol 1, this clinic 3; update melfed"),
        ({"protocol": None}, "the coordinator speaks a protocol without a version, this clinic 3; update melfed"),
        ({"study": None}, "the request brings no study; update melfed at the coordinator"),
        ({"study": 3}, "the request brings no study; update melfed at the coordinator"),
    ],
)
def test_a_coordinator_of_another_version_is_told_so(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    content = question(0, FAKE, "run")
    for name, value in change.items():
        del content.config_records["request"][name]
        if value is not None:
            content.config_records["request"][name] = value
    assert refusal(ask(deployed_app(tmp_path / "w.sock"), messages.DESCRIBE, content), None) == reason


@pytest.mark.parametrize(("age", "seconds"), [(0, 3600), (200, 3600), (-5000, 3600), (1300, 2600), (10_000, 1)])
def test_the_deadline_is_the_life_of_the_message_whatever_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, seconds: float
) -> None:
    seen: list[float] = []

    class Remote:
        clinic = None

        def __init__(self, _socket: Path, _study: str, deadline: float, flower_run: int, run: str) -> None:
            seen.append(deadline)
            assert (flower_run, run) == (1, "run")

        def describe(self, run: str = "", counts: bool = True) -> None:
            raise DataError("enough")

        def told(self, error: MelfedError) -> MelfedError:
            return error

    monkeypatch.setattr(app_module, "RemoteWorker", Remote)
    message = Message(question(0, FAKE, "run"), dst_node_id=NODE, message_type=messages.DESCRIBE, ttl=3600)
    message.metadata.__dict__["_message_id"] = "question"
    message.metadata.created_at = time.time() - age
    context = Context(run_id=1, node_id=NODE, node_config={}, state=RecordDict(), run_config={})
    deployed_app(tmp_path)(message=message, context=context)
    assert seen == [pytest.approx(seconds, abs=2)]


def test_a_deployed_app_has_the_worker_keep_a_model_that_the_coordinator_signed(tmp_path: Path) -> None:
    config = clinic_for_models(tmp_path / "kit")
    told = FACTS.model_dump_json()
    content = exchange.FlowerChannel(None).delivery(STUDY, RUN, MODEL_TENSORS, told, signed())
    with tempfile.TemporaryDirectory(prefix="w") as name, served(Path(name), deliveries=deliveries(config)):
        app = deployed_app(Path(name) / "w.sock")
        answer = ask(app, messages.DELIVER, content)
        assert dict(answer.config_records["model"]) == {"clinic": "north"}
        (kept,) = ModelStore(config.models).all()
        assert kept.facts == FACTS
        content.config_records["model"]["signature"] = b"another"
        assert "not what the coordinator signed" in refusal(ask(app, messages.DELIVER, content), "north")
        del content["model"]
        assert "without its facts or its signature" in refusal(ask(app, messages.DELIVER, content), None)


def test_a_simulated_clinic_keeps_no_model(worker: ClinicWorker) -> None:
    content = exchange.FlowerChannel(None).delivery(STUDY, RUN, MODEL_TENSORS, "{}", signed())
    answer = ask(make_app(lambda _context, _message: worker), messages.DELIVER, content)
    assert "keeps no model" in answer.config_records["refused"]["reason"]
