"""A finished model on its way: who is sent it, who is waited for, what is written down."""

import threading
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from melfed.common import messages
from melfed.common.audit.log import AuditLog, read_log
from melfed.common.export.facts import ModelFacts
from melfed.common.export.signature import Signed
from melfed.server.federation import delivery as delivery_module
from melfed.server.federation.context import Conduct, StoppedError
from melfed.server.federation.delivery import ABSENT, Delivery, Parcel, read_deliveries
from melfed.server.flower.channel import FlowerChannel
from melfed.server.runs.folder import RunFolder
from tests.server.fakes import FakeClinic, FakeGrid, study_of

STUDY = study_of(deadline_seconds=5.0, grace_seconds=0.0)
TENSORS = {"head.weight": np.ones((1, 2), np.float32)}


class Named(FakeGrid):
    """A grid whose nodes are registered by name; `away` are offline."""

    away: frozenset[str] = frozenset()

    def get_nodes(self) -> list[NodeInfo]:
        here = {node: clinic.name for node, clinic in self.clinics.items() if clinic.name not in self.away}
        return [NodeInfo(node_id=node, name=name, last_activated_at="t") for node, name in here.items()]


def grid_of(*names: str, **tamper) -> Named:
    return Named({100 + i: FakeClinic(name, STUDY, tamper=tamper) for i, name in enumerate(names)})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", STUDY)


def delivery(folder: RunFolder, tensors=TENSORS, **terms) -> Delivery:
    audit = AuditLog(folder.path / "audit.jsonl", "serverapp")
    conduct = Conduct(frozenset("ab"), poll_seconds=0.001, deployed=True, audit=audit, **terms)
    parcel = Parcel(STUDY, tensors, ModelFacts.of(STUDY, run=folder.identity))
    return Delivery(folder, conduct, parcel, lambda _content, _facts: Signed(b"signed", "certificate"))


def sent(grid: Named) -> list[int]:
    return [message.metadata.dst_node_id for message in grid.sent]


def outcomes(folder: RunFolder) -> dict[str, tuple[bool, str]]:
    return {name: (row.taken, row.reason) for name, row in read_deliveries(folder).items()}


def test_everyone_who_is_there_gets_it_and_what_each_said_is_written_down(folder: RunFolder) -> None:
    def declining(_: RecordDict) -> RecordDict:
        return RecordDict({"declined": ConfigRecord({"reason": "takes no\nmodels"})})

    grid = grid_of("a", "b", "c")
    grid.clinics[101].tamper = {messages.DELIVER: declining}
    grid.away = frozenset("c")
    delivery(folder).at_the_end(FlowerChannel(grid), ["a", "b", "c"])
    assert outcomes(folder) == {"a": (True, ""), "b": (False, "takes no models"), "c": (False, ABSENT)}
    rows = [(row["event"], row["clinic"]) for row in read_log(folder.path / "audit.jsonl")]
    assert rows == [("model-delivered", "a"), ("model-not-delivered", "b"), ("model-not-delivered", "c")]


def test_the_same_model_is_sent_once_at_the_end_and_another_again(folder: RunFolder) -> None:
    grid = grid_of("a", "b")
    for _ in range(2):
        delivery(folder).at_the_end(FlowerChannel(grid), ["a", "b"])
    assert sent(grid) == [100, 101]
    delivery(folder, {"head.weight": np.zeros((1, 2), np.float32)}).at_the_end(FlowerChannel(grid), ["a", "b"])
    assert sent(grid) == [100, 101, 100, 101]


def test_on_request_it_is_sent_to_those_named_alone_again_if_need_be(folder: RunFolder) -> None:
    grid = grid_of("a", "b")
    for _ in range(2):
        delivery(folder).on_request(FlowerChannel(grid), ["b"])
    assert sent(grid) == [101, 101]
    assert outcomes(folder) == {"b": (True, "")}


def test_on_request_whoever_is_away_is_waited_for(folder: RunFolder) -> None:
    grid = grid_of("a", "b")
    grid.away = frozenset("b")
    looks = []
    original = grid.get_nodes

    def looking() -> list[NodeInfo]:
        looks.append(1)
        if len(looks) == 5:
            grid.away = frozenset()
        return original()

    grid.get_nodes = looking  # type: ignore[method-assign]
    delivery(folder).on_request(FlowerChannel(grid), ["a", "b"])
    assert outcomes(folder) == {"a": (True, ""), "b": (True, "")}


def test_an_answer_in_anothers_name_is_none(folder: RunFolder) -> None:
    lying = {messages.DELIVER: lambda _: RecordDict({"model": ConfigRecord({"clinic": "b"})})}
    delivery(folder).at_the_end(FlowerChannel(grid_of("a", **lying)), ["a"])
    assert outcomes(folder) == {"a": (False, "its answer is that of b")}


def test_it_stops_when_it_is_told_to(folder: RunFolder) -> None:
    grid, stop = grid_of("a"), threading.Event()
    grid.away = frozenset("a")
    stop.set()
    with pytest.raises(StoppedError):
        delivery(folder, stop=stop).on_request(FlowerChannel(grid), ["a"])


def test_what_cannot_be_read_of_deliveries_counts_as_none(folder: RunFolder) -> None:
    assert read_deliveries(folder) == {}
    (folder.path / delivery_module.NAME).write_text("{")
    assert read_deliveries(folder) == {}
