"""The ServerApp of a deployment, on a grid of scripted clinics."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from melfed.common import messages
from melfed.common.audit.log import read_log
from melfed.common.errors import MelfedError, QuorumError, RunError, ServiceError, StorageError
from melfed.common.export.facts import read_facts
from melfed.common.export.signature import Signed, check_signature
from melfed.common.locks import is_held, only_one
from melfed.common.messages import packed_bytes
from melfed.common.study.protocol import DataSpec, FederationSpec, ModelSpec, StudyProtocol
from melfed.common.study.recipe import Choice
from melfed.common.tensors import load_tensors
from melfed.server.clinics.asked import write_asked
from melfed.server.clinics.self_reports import read_said
from melfed.server.config import ServerConfig, read_server
from melfed.server.federation.delivery import read_deliveries
from melfed.server.flower import deployed
from melfed.server.flower.deployed import conduct_run, roll_call
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.request import change_request, queue_run, read_request
from melfed.server.runs.state import CONDUCTED, change_state, read_state
from melfed.server.trackers import TRACKERS
from melfed.server.trackers.tracker import require
from tests.common.signing import AUTHORITY, COORDINATOR, HOST
from tests.server.fakes import FakeClinic, FakeGrid, changed
from tests.server.trackers.told import Listener


class NamedGrid(FakeGrid):
    """A grid whose nodes are registered by name, as SuperLink's are."""

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=clinic.name, last_activated_at="t") for node, clinic in self.clinics.items()
        ]


def study_of(rounds: int = 2, **federation) -> StudyProtocol:
    return StudyProtocol(
        name="scripted",
        data=DataSpec(image_size=32),
        model=ModelSpec(backbone="simple_cnn", pretrained=False),
        federation=FederationSpec(rounds=rounds, **{"deadline_seconds": 5.0, "grace_seconds": 0.0, **federation}),
    )


def grid_of(study: StudyProtocol, names: str = "abc", **tamper) -> NamedGrid:
    return NamedGrid({100 + i: FakeClinic(name, study, 30, dict(tamper)) for i, name in enumerate(names)})


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerConfig]:
    (tmp_path / "server.yaml").write_text("name: test\n")
    monkeypatch.setattr(deployed, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(deployed, "HANDOVER_SECONDS", 0.2)
    monkeypatch.setattr(deployed, "aside", lambda function, *arguments: function(*arguments))
    found = read_server(tmp_path / "server.yaml")
    found.state.mkdir()
    found.certificate.write_bytes(COORDINATOR.certificate)
    found.certificate_key.write_bytes(COORDINATOR.key)
    before = dict(os.environ)
    yield found
    os.environ.clear()
    os.environ.update(before)


def queued(config: ServerConfig, study: StudyProtocol, clinics: tuple[str, ...] = ("a", "b", "c")) -> RunFolder:
    return queue_run(config.runs / "r", study, clinics, [Choice("model.train", "full", "because")])


def test_a_run_is_conducted_from_queued_to_completed(config):
    study = study_of()
    folder = queued(config, study)
    conduct_run(config, "r", grid_of(study), flower_run=7)
    state = read_state(folder.path)
    assert (state.status, state.wanted, state.flower_run, state.round) == ("completed", False, 7, 2)
    summary = folder.summary()
    assert [clinic.name for clinic in summary.clinics] == ["a", "b", "c"]
    assert summary.data.folder == "3 clinics"
    assert len(summary.rounds) == 2
    assert load_tensors(folder.model)[1]["study"] == study.digest
    assert folder.report.exists()
    assert not is_held(folder.path / CONDUCTED)
    assert "run-completed" in [row["event"] for row in read_log(config.audit_log)]


def test_trackers_of_the_server_are_told_of_its_runs(config, monkeypatch):
    listener, study = Listener(), study_of()
    monkeypatch.setitem(TRACKERS, "wandb", lambda: listener)
    config = replace(config, file=config.file.model_copy(update={"trackers": ("wandb",)}))
    queued(config, study)
    conduct_run(config, "r", grid_of(study), 1)
    told = [(kind, number) for kind, number, _ in listener.calls]
    assert ("record", 1) in told
    assert told[-1] == ("finished", 2)
    assert listener.closed == 1


def test_a_tracker_that_is_not_installed_is_the_runs_failure(config, monkeypatch):
    monkeypatch.setitem(TRACKERS, "wandb", lambda: require("no_such_package", "wandb"))
    config = replace(config, file=config.file.model_copy(update={"trackers": ("wandb",)}))
    folder = queued(config, study_of())
    with pytest.raises(ServiceError):
        conduct_run(config, "r", grid_of(study_of()), 1)
    assert read_state(folder.path).status == "failed"
    assert "no_such_package is not installed" in read_state(folder.path).reason


def test_clinics_that_were_not_chosen_are_not_asked(config):
    study = study_of()
    queued(config, study, ("a", "b"))
    grid = grid_of(study)
    conduct_run(config, "r", grid, 1)
    assert grid.clinics[102].asked == []
    assert {messages.TRAIN for _ in "ab"} <= {kind for kind, _ in grid.clinics[100].asked}


def test_a_run_without_quorum_has_failed_and_is_not_wanted(config):
    study = study_of(quorum=1.0)
    folder = queued(config, study)
    with pytest.raises(QuorumError):
        conduct_run(config, "r", grid_of(study, **{messages.TRAIN: lambda _: RecordDict()}), 1)
    state = read_state(folder.path)
    assert (state.status, state.wanted) == ("failed", False)
    assert state.reason.startswith("quorum: ")


def test_a_process_that_is_killed_is_followed_by_one_that_goes_on(config):
    """A fault that is none of melfed's stands for the kill: nothing is written after it."""
    study = study_of(rounds=3)
    folder = queued(config, study)
    grid = grid_of(study)

    class KilledError(Exception):
        pass

    def killed(content):
        if int(str(content.config_records["request"]["round"])) == 2:
            raise KilledError
        return content

    grid.clinics[102].tamper = {messages.TRAIN: killed}
    with pytest.raises(KilledError):
        conduct_run(config, "r", grid, 1)
    state = read_state(folder.path)
    assert (state.status, state.wanted, state.round) == ("running", True, 1)
    grid.clinics[102].tamper = {}
    conduct_run(config, "r", grid, 2)
    assert read_state(folder.path).flower_run == 2
    assert [row["round"] for row in folder.events() if row["event"] == "round"] == [1, 2, 3]
    undisturbed = queue_run(config.runs / "s", study, ("a", "b", "c"), [])
    conduct_run(config, "s", grid_of(study), 3)
    left, right = (load_tensors(run.model)[0] for run in (folder, undisturbed))
    assert all((left[name] == right[name]).all() for name in left)


def test_one_killed_before_its_last_word_only_says_it(config):
    study = study_of()
    folder = queued(config, study)
    conduct_run(config, "r", grid_of(study), 1)
    folder.report.unlink()
    change_state(folder.path, status="running", wanted=True)
    grid = grid_of(study)
    conduct_run(config, "r", grid, 2)
    assert grid.sent == []
    assert folder.report.exists()
    assert read_state(folder.path).status == "completed"


def test_two_processes_do_not_conduct_one_run(config):
    study = study_of()
    folder = queued(config, study)
    with only_one(folder.path / CONDUCTED, "x"), pytest.raises(ServiceError, match="run r is conducted by process"):
        conduct_run(config, "r", grid_of(study), 1)
    assert read_state(folder.path).status == "queued"


def test_without_space_the_run_stays_wanted(config, monkeypatch):
    study = study_of()
    folder = queued(config, study)

    def full(*_):
        raise StorageError("model.safetensors: cannot be written: No space left on device")

    monkeypatch.setattr("melfed.server.results.finalize.save_model", full)
    with pytest.raises(StorageError):
        conduct_run(config, "r", grid_of(study), 1)
    assert read_state(folder.path).wanted
    monkeypatch.undo()
    conduct_run(config, "r", grid_of(study), 2)
    assert read_state(folder.path).status == "completed"


@pytest.mark.parametrize("name", ["", "..", "../r", "/etc", "r/checkpoints", "none"])
def test_a_name_leads_nowhere_else(config, name):
    queued(config, study_of())
    with pytest.raises(RunError, match="no run is called"):
        conduct_run(config, name, grid_of(study_of()), 1)


def test_a_link_is_no_run(config, tmp_path):
    study = study_of()
    queue_run(tmp_path / "elsewhere", study, ("a",), [])
    config.runs.mkdir()
    (config.runs / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="no run is called"):
        conduct_run(config, "link", grid_of(study), 1)


def test_weights_that_are_missing_fail_the_run_with_their_reason(config):
    study = study_of().with_changes("model", pretrained=True, backbone="resnet18", weights_sha256="0" * 64)
    folder = queued(config, study)
    with pytest.raises(MelfedError):
        conduct_run(config, "r", grid_of(study), 1)
    state = read_state(folder.path)
    assert (state.status, state.wanted) == ("failed", False)
    assert "resnet18" in state.reason


def declining(_: RecordDict) -> RecordDict:
    return RecordDict({"declined": ConfigRecord({"reason": "not approved"}), "identity": ConfigRecord({"clinic": "c"})})


def told(**identity):
    def add(content: RecordDict) -> RecordDict:
        record = content.config_records["identity"]
        for key, value in identity.items():
            record[key] = value
        return content

    return add


def test_what_clinics_say_of_themselves_is_kept(config):
    study = study_of()
    queued(config, study)
    says = told(version="9.9", approved=["f" * 64], budget=2.5)
    conduct_run(config, "r", grid_of(study, **{messages.DESCRIBE: says}), 1)
    said = read_said(config.clinics_said)
    assert set(said) == {"a", "b", "c"}
    assert (said["a"].version, said["a"].approved, said["a"].budget) == ("9.9", ("f" * 64,), 2.5)


def test_a_roll_call_writes_down_who_said_what_and_who_declined(config):
    study = study_of()
    grid = grid_of(study)
    grid.clinics[100].tamper = {messages.DESCRIBE: told(version="1.0", budget=float("nan"))}
    grid.clinics[101].tamper = {messages.DESCRIBE: changed(identity=lambda _: None)}
    grid.clinics[102].tamper = {messages.DESCRIBE: declining}
    roll_call(config, grid)
    said = read_said(config.clinics_said)
    assert (said["a"].version, said["a"].approved) == ("1.0", None)
    assert (said["a"].declined, said["c"].declined) == ("", StudyProtocol().digest)
    assert said["c"].reason == "not approved"
    assert said["a"].budget is None  # not a number
    assert "b" not in said
    assert {kind for kind, _ in grid.clinics[102].asked} == {messages.DESCRIBE}


def test_a_roll_call_is_for_no_run_so_that_nobody_counts_or_pays(config):
    grid = grid_of(study_of())
    roll_call(config, grid)
    assert {str(message.content.config_records["request"]["run"]) for message in grid.sent} == {""}
    assert len(grid.sent) == 3


def test_clinics_are_asked_about_a_study_that_nobody_has_run(config):
    study = study_of(rounds=7)
    grid = grid_of(study)
    grid.clinics[100].tamper = {messages.DESCRIBE: told(round_minutes=16)}
    grid.clinics[101].tamper = {messages.DESCRIBE: told(round_minutes=17)}
    context = Context(
        run_id=5, node_id=1, node_config={}, state=RecordDict(), run_config={"run": write_asked(config, study)}
    )
    os.environ["MELFED_SERVER"] = str(config.path)
    deployed.main(grid, context)
    requests = [message.content.config_records["request"] for message in grid.sent]
    assert {str(request["digest"]) for request in requests} == {study.digest}
    assert {str(request["run"]) for request in requests} == {""}
    said = read_said(config.clinics_said)
    assert {name: (said[name].round_minutes, said[name].timed) for name in "abc"} == {
        "a": (16, study.digest),
        "b": (None, ""),
        "c": (None, ""),
    }


def test_a_liar_is_known_by_the_name_of_its_key(config):
    grid = grid_of(study_of(), "ab")
    grid.clinics[101].tamper = {messages.DESCRIBE: told(clinic="a", version="evil\n\x1b[31m" + "x" * 500)}
    roll_call(config, grid)
    said = read_said(config.clinics_said)
    assert set(said) == {"a", "b"}
    assert len(said["b"].version) <= 80
    assert "\n" not in said["b"].version


def test_the_app_takes_its_run_from_flower_and_its_configuration_from_the_environment(config, monkeypatch):
    seen = []
    monkeypatch.setenv("MELFED_SERVER", str(config.path))
    monkeypatch.setattr(deployed, "conduct_run", lambda *args: seen.append(args[1:2] + args[3:]))
    monkeypatch.setattr(deployed, "roll_call", lambda *args: seen.append("roll-call"))
    for run in ("r", ""):
        context = Context(run_id=5, node_id=1, node_config={}, state=RecordDict(), run_config={"run": run})
        deployed.main(grid_of(study_of()), context)
    assert seen == [("r", 5), "roll-call"]


def test_whoever_took_part_is_sent_the_model_and_others_on_request(config):
    study = study_of()
    folder = queued(config, study, ("a", "b"))
    grid = grid_of(study)
    grid.clinics[101].tamper = {messages.DELIVER: declining}
    conduct_run(config, "r", grid, 1)
    assert {name: (row.taken, row.reason) for name, row in read_deliveries(folder).items()} == {
        "a": (True, ""),
        "b": (False, "not approved"),
    }
    told = [row["event"] for row in read_log(config.audit_log)]
    assert told.index("model-delivered") < told.index("run-completed")
    assert "model-not-delivered" in told
    change_request(folder.path, delivers=("c", "b"))
    grid.clinics[101].tamper = {}
    conduct_run(config, "r", grid, 2)
    assert {name: row.taken for name, row in read_deliveries(folder).items()} == dict.fromkeys("abc", True)
    assert [kind for kind, _ in grid.clinics[100].asked].count(messages.DELIVER) == 1
    assert read_request(folder.path).delivers == ()
    assert read_state(folder.path).status == "completed"
    sent = [m for m in grid.sent if m.metadata.message_type == messages.DELIVER][-1].content
    told = sent.config_records["model"]
    signed = Signed(told["signature"], told["certificate"])
    content = packed_bytes("tensors", sent.array_records["tensors"])
    check_signature(content, str(told["facts"]), signed, AUTHORITY.certificate, HOST)
    facts = read_facts(str(told["facts"]), "it")
    assert (facts.study, facts.run, facts.privacy) == (study.digest, folder.identity, None)


def test_the_request_is_on_file(config):
    folder = queued(config, study_of())
    content = json.loads((folder.path / "request.json").read_text())
    assert content["clinics"] == ["a", "b", "c"]
    assert content["recipe"] == [{"key": "model.train", "value": "full", "reason": "because"}]
