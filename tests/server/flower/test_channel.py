"""Requests to clinics and their replies: who answered, what, in which order, and what no bytes from outside may do."""

import io
import struct
import zipfile
from collections.abc import Callable
from time import monotonic

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from hypothesis import example, given, settings
from hypothesis import strategies as st

from melfed.common import messages
from melfed.common.messages import MESSAGE_VERSION, PACKED, pack
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import TensorError
from melfed.server.flower.channel import Node, Reply, RequestTerms, ask, online, request, size
from tests.server.fakes import Answer, FakeGrid, held, study_of

STUDY = study_of()
CONTENT = request(3, STUDY, "run", {"w": np.ones((2, 3), np.float32)})


def says(text: str) -> Callable[[Message], Answer]:
    return lambda _message: RecordDict({"identity": ConfigRecord({"clinic": text})})


def silent(_message: Message) -> None:
    return None


class Counting:
    """An asker that counts its polling intervals, and sleeps through none."""

    def __init__(self) -> None:
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1

    def enough(self) -> bool:
        raise AssertionError("nobody who is lost is waited for")

    lost = returned = enough


def asked(grid: FakeGrid, seconds: float = 5.0, asker: Counting | None = None) -> list[Reply]:
    nodes = dict.fromkeys(grid.clinics, "")
    return list(ask(grid, messages.TRAIN, nodes, CONTENT, RequestTerms(seconds), asker or Counting()))


def answers(replies: list[Reply]) -> dict[int, str]:
    return {reply.node: reply.error or reply.text("identity", "clinic") for reply in replies}


def test_each_node_gets_the_request_and_its_answer_comes_back() -> None:
    grid = FakeGrid({7: says("a"), 8: says("b")})
    assert answers(asked(grid)) == {7: "a", 8: "b"}
    assert [message.metadata.dst_node_id for message in grid.sent] == [7, 8]
    for message in grid.sent:
        assert message.metadata.message_type == "train"
        assert message.metadata.group_id == "3"
        assert message.metadata.ttl > 5, "a message must outlive the deadline"
        request_ = dict(message.content.config_records["request"])
        assert StudyProtocol.model_validate_json(str(request_.pop("study"))) == STUDY
        numbers = {"round": 3, "protocol": MESSAGE_VERSION, "counts": True}
        assert request_ == {**numbers, "digest": STUDY.digest, "run": "run"}
        np.testing.assert_array_equal(held(message.content.array_records["tensors"])["w"], np.ones((2, 3)))
    assert grid.sent[0].content is grid.sent[1].content, "a model is in memory once, not once a clinic"


def test_replies_are_yielded_as_they_arrive_in_any_order() -> None:
    asker = Counting()
    clinics = {node: says(f"clinic {node}") for node in (5, 6, 7, 8)}
    replies = asked(FakeGrid(clinics, order=lambda ready: ready[::-1], trickle=True), asker=asker)
    assert [reply.node for reply in replies] == [8, 7, 6, 5]
    assert answers(replies) == {node: f"clinic {node}" for node in clinics}
    assert asker.waits == 3, "one polling interval between two pulls, and none after the last"


def test_an_error_is_told_by_the_message_that_it_answers_not_by_its_sender() -> None:
    grid = FakeGrid({5: says("a"), 6: lambda _message: Error(code=1, reason="node\nis  gone"), 1: says("c")})
    replies = asked(grid)
    assert {reply.node: reply.error for reply in replies} == {5: None, 6: "node\nis  gone", 1: None}
    assert answers(replies)[1] == "c"


def test_an_error_without_a_reason_is_one_too() -> None:
    (reply,) = asked(FakeGrid({5: lambda _message: Error(code=3)}))
    assert reply.error == "unknown error"


def test_a_node_that_never_answers_is_given_up_after_the_deadline() -> None:
    started = monotonic()
    replies = asked(FakeGrid({5: silent, 6: says("b")}), seconds=0.2)
    assert monotonic() - started < 10
    assert answers(replies) == {6: "b", 5: "no answer within 0.2 s"}
    assert [reply.size for reply in replies] == [0, 0]


def test_a_reply_that_is_there_counts_even_after_the_deadline() -> None:
    assert answers(asked(FakeGrid({5: says("a")}), seconds=0.0)) == {5: "a"}


def test_a_node_that_cannot_be_reached_does_not_shift_the_others() -> None:
    grid = FakeGrid({5: says("a"), 6: says("b"), 7: says("c")}, unreachable=[6])
    assert answers(asked(grid)) == {5: "a", 7: "c", 6: "Flower could not send the request to it"}


def test_strange_and_repeated_replies_are_ignored() -> None:
    class Noisy(FakeGrid):
        def pull_messages(self, message_ids):
            ready = super().pull_messages(message_ids)
            stranger = Message(RecordDict(), reply_to=self.sent[0])
            stranger.metadata.__dict__["_reply_to_message_id"] = "another run's"
            return [stranger, *ready, *ready]

    assert answers(asked(Noisy({5: says("a"), 6: says("b")}))) == {5: "a", 6: "b"}


@pytest.mark.parametrize(("kind", "told"), [("refused", "error"), ("declined", "declined")])
def test_a_refusal_carries_its_reason_and_keeps_apart_from_declining(kind: str, told: str) -> None:
    refusals = {5: {"reason": "too many rounds"}, 6: {"other": 1}, 7: {}, 8: {"reason": ""}}
    grid = FakeGrid({n: lambda _m, r=r: RecordDict({kind: ConfigRecord(r)}) for n, r in refusals.items()})
    replies = asked(grid)
    unexplained = f"{kind} without a reason"
    expected = {5: "too many rounds", 6: unexplained, 7: unexplained, 8: unexplained}
    assert {reply.node: getattr(reply, told) for reply in replies} == expected
    other = {"error": "declined", "declined": "error"}[told]
    assert [getattr(reply, other) for reply in replies] == [None] * 4


def test_stopping_while_waiting_leaves_at_once() -> None:
    class EndedError(Exception):
        pass

    class Ended(Counting):
        def wait(self) -> None:
            raise EndedError

    with pytest.raises(EndedError):
        asked(FakeGrid({5: silent}), 60, Ended())


def reply_of(**records) -> Reply:
    return Reply(5, RecordDict(records), None, 0)


def test_what_a_reply_lacks_is_empty() -> None:
    reply = reply_of()
    assert reply.arrays("tensors") == {}
    assert np.isnan(reply.number("metrics", "loss"))
    assert reply.text("identity", "clinic") == ""


def test_numbers_and_settings_of_other_types() -> None:
    reply = reply_of(
        metrics=MetricRecord({"images": 7, "loss": 0.5, "list": [1.0, 2.0]}),
        identity=ConfigRecord({"clinic": "a", "round": 3, "bytes": b"\xff", "flag": True}),
    )
    assert reply.number("metrics", "images") == 7
    assert reply.number("metrics", "loss") == 0.5
    assert np.isnan(reply.number("metrics", "list"))
    assert np.isnan(reply.number("identity", "round")), "a setting is no metric"
    assert reply.text("identity", "round") == "3"
    assert reply.text("identity", "bytes") == "b'\\xff'"
    assert reply.text("metrics", "images") == "", "a metric is no setting"


def test_sizes_are_those_of_the_arrays() -> None:
    tensors = {"w": np.zeros((100, 50), np.float32), "b": np.zeros(50, np.float32)}
    content = request(1, STUDY, "run", tensors)
    assert 4 * 5050 <= size(content) <= 4 * 5050 + 300
    content["empty"] = ConfigRecord({"text": ""})  # Flower's own count raises at this
    assert size(content) < 4 * 5050 + 300


def npy(header: str, content: bytes = b"\0" * 8) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, w=np.zeros(2, np.float32))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as content:
        content.writestr("w.npy", b"no array")
    return file.getvalue()


GOOD = saved(pack({"w": np.arange(12, dtype=np.float32).reshape(3, 4)}))
HEADER = "{{'descr': '{}', 'fortran_order': False, 'shape': {}}}"
MALFORMED = {
    "empty": b"",
    "cut": GOOD[:-1],
    "text": b"no array at all",
    "zip": b"PK\x03\x04abc",
    "zip of nothing": zipped(),
    "archive": archive(),
    "pickle": b"\x80\x04N.",
    "objects": npy(HEADER.format("|O", "(1,)")),
    "terabytes": npy(HEADER.format("<f4", "(1000000000000,)")),
    "more than can be counted": npy(HEADER.format("<f4", f"({10**30},)")),
    "shape of no numbers": npy(HEADER.format("<f4", "(True,)")),
    "unbalanced": npy("(" * 5000),
    "no dictionary": npy("{[]: 1}"),
}


def sent(content: bytes, stype: str = "numpy.ndarray") -> Reply:
    return reply_of(tensors=ArrayRecord({PACKED: Array(dtype="uint8", shape=(3, 4), stype=stype, data=content)}))


@pytest.mark.parametrize("name", MALFORMED)
def test_bytes_that_are_no_array_are_refused(name: str) -> None:
    with pytest.raises(TensorError, match="tensors cannot be read"):
        sent(MALFORMED[name]).arrays("tensors")


def test_arrays_of_another_serialisation_are_refused() -> None:
    with pytest.raises(TensorError, match="tensors cannot be read"):
        sent(GOOD, "torch.Tensor").arrays("tensors")


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(GOOD)))
@example([], len(GOOD))
def test_altered_bytes_give_an_array_or_a_tensor_error(changes: list[tuple[int, int]], length: int) -> None:
    content = bytearray(GOOD)
    for place, value in changes:
        content[place] = value
    try:
        arrays = sent(bytes(content[:length])).arrays("tensors")
    except TensorError:
        return
    assert isinstance(arrays["w"], np.ndarray)


def test_who_is_online_is_known_by_name_and_by_when_it_came() -> None:
    class Named(FakeGrid):
        def get_nodes(self) -> list[NodeInfo]:
            return [NodeInfo(node_id=5, name="a", last_activated_at="2026-01-01"), NodeInfo(node_id=6)]

    assert online(Named({})) == {5: Node("a", "2026-01-01"), 6: Node("", "")}


def test_the_path_of_a_clinics_weights_does_not_travel() -> None:
    study = STUDY.with_changes("model", weights="/home/somebody/weights.pth", weights_sha256="a" * 64)
    told = str(request(0, study, "run").config_records["request"]["study"])
    assert "somebody" not in told
    assert StudyProtocol.model_validate_json(told).digest == study.digest
