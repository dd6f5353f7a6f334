"""How questions and answers travel."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.rpc import codec as wire
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.api import Description, PrivacyAccount, TrainReply
from melfed.client.rpc.codec import Packed, Sent
from melfed.common import errors
from melfed.common.errors import BudgetError, DeclinedError, MelfedError, ServiceError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.tensors import TensorError

REPOSITORY = Path(__file__).resolve().parents[3]


def test_every_class_of_error_travels() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MelfedError)]
    for kind in (*classes, TensorError):
        back = wire.unpack_failure(wire.pack_failure(kind("why"), "north"))
        # How much is left of a budget is the clinic's own matter.
        assert (type(back), str(back)) == (DeclinedError if kind is errors.BudgetError else kind, "why")
    assert type(wire.unpack_failure(pb.Failure(kind="SystemExit"))) is ServiceError


def test_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", "src"]
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([*command, *outputs, "melfed/client/rpc/worker.proto"], cwd=REPOSITORY, check=True, timeout=60)
    for name in ("worker_pb2.py", "worker_pb2.pyi", "worker_pb2_grpc.py"):
        assert (tmp_path / "melfed/client/rpc" / name).read_text() == (REPOSITORY / "client/rpc" / name).read_text(), (
            "see the head of client/rpc/worker.proto"
        )


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=10)
NUMBERS = st.floats(allow_nan=False)
ACCOUNTS = st.builds(PrivacyAccount, NUMBERS, NAMES, NUMBERS, st.none() | NUMBERS)


def histogram(seed: int) -> ScoreHistogram:
    rng = np.random.default_rng(seed)
    return ScoreHistogram.from_scores(rng.random(5), np.arange(5) % 2, [str(place) for place in range(5)])


def travelled(packed: Packed) -> Sent:
    head, files = wire.send(packed)
    return wire.receive(head, files)


def told(found: Histogram | None) -> dict[str, list[float]] | None:
    return None if found is None else found.to_lists()


@settings(deadline=None, max_examples=25)
@given(
    account=st.none() | ACCOUNTS,
    loss=st.none() | st.floats(allow_nan=False, width=32),
    seed=st.none() | st.integers(0, 9),
)
def test_a_trained_answer_comes_back_as_it_was(
    account: PrivacyAccount | None, loss: float | None, seed: int | None
) -> None:
    tensors = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.float32(2.0).reshape(())}
    sent = TrainReply(tensors, 120, loss, None if seed is None else histogram(seed), account)
    packed = wire.pack_trained(sent, "north")
    assert packed.head.clinic == "north"
    found = wire.unpack_trained(travelled(packed))
    assert (found.weight, found.loss, found.account) == (120, loss, account)
    assert told(found.validation) == told(sent.validation)
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


@settings(deadline=None, max_examples=25)
@given(
    account=st.none() | ACCOUNTS,
    parts=st.sets(st.sampled_from((*wire.PARTS_SCORED, "subgroups/age/0", "subgroups/age/1", "subgroups/sex/2"))),
)
def test_a_scored_answer_comes_back_as_it_was(account: PrivacyAccount | None, parts: set[str]) -> None:
    scored = {part: histogram(place) for place, part in enumerate(sorted(parts))}
    packed = wire.pack_scored(scored, account, "north")
    assert {part: told(each) for part, each in wire.unpack_scored(travelled(packed)).items()} == {
        part: told(each) for part, each in scored.items()
    }
    assert wire.account_of(packed.head) == account


@settings(deadline=None, max_examples=25)
@given(
    st.builds(
        Description,
        NAMES,
        NAMES,
        st.dictionaries(NAMES, st.integers(0, 2**40)),
        NAMES,
        st.none() | NUMBERS,
        st.lists(NAMES).map(tuple),
        NUMBERS,
    )
)
def test_a_description_comes_back_as_it_was(description: Description) -> None:
    assert wire.unpack_description(wire.pack_description(description)) == description


class Unknown(MelfedError):
    pass


def test_an_error_that_nobody_else_knows_travels_as_one_of_the_service_and_a_budget_as_declined() -> None:
    for error, kind in (
        (Unknown("x"), ServiceError),
        (BudgetError("x", figures="secret"), DeclinedError),
        (TensorError("x"), TensorError),
    ):
        sent = wire.pack_failure(error, "north")
        assert "secret" not in str(sent)
        found = wire.unpack_failure(sent)
        assert (type(found), str(found)) == (kind, "x")
    assert type(wire.unpack_failure(pb.Failure(kind="SystemExit", reason="x"))) is ServiceError


@settings(deadline=None, max_examples=25)
@given(st.binary(max_size=100), st.integers(1, 30))
def test_parts_are_joined_to_what_was_cut(content: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "PART_BYTES", size)
        parts = list(wire.parts(content))
    assert all(len(part) == size for part in parts[:-1])
    assert wire.join(len(content), parts) == content


def test_other_than_so_many_bytes_are_refused_and_no_more_are_taken_than_said() -> None:
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield b"x" * 10

    with pytest.raises(TensorError, match=r"^tensors cannot be read: 30 bytes came, not 25$"):
        wire.join(25, endless())
    assert len(taken) == 3
    with pytest.raises(TensorError, match="20 bytes came, not 25"):
        wire.join(25, [b"x" * 20])
    with pytest.raises(TensorError, match="are too many; at most"):
        wire.join(wire.MOST_TENSOR_BYTES + 1, endless())


@pytest.mark.parametrize(
    ("stated", "seconds"), [(2.5, 2.5), (-1.0, 0.0), (1e9, 7 * 86_400.0), (math.inf, 0.0), (math.nan, 0.0)]
)
def test_a_deadline_is_a_week_at_most_and_none_for_what_is_no_number(stated: float, seconds: float) -> None:
    assert wire.seconds_of(pb.Question(deadline_seconds=stated)) == seconds


ARRAYS = {
    "tensors/w": np.arange(300_000, dtype=np.float32),
    "validation/low": np.array([1.0]),
    "tensors/b": np.zeros((0, 2), np.float32),
}


def parts_of(files: list[bytes]) -> list[bytes]:
    return [part for content in files for part in wire.parts(content)]


def test_each_group_is_a_file_that_comes_back_as_it_was() -> None:
    head, files = wire.send(Packed(pb.Answer(clinic="north", weight=7), ARRAYS))
    assert [(group.name, group.size) for group in head.groups] == [
        ("tensors", len(files[0])),
        ("validation", len(files[1])),
    ]
    sent = wire.receive(head, parts_of(files))
    assert [held.content for held in sent.groups.values()] == files, "not a byte was read or made anew"
    assert (sent.head.clinic, sent.head.weight) == ("north", 7)
    assert {f"{group}/{name}" for group, held in sent.groups.items() for name in held} == set(ARRAYS)
    np.testing.assert_array_equal(sent.groups["tensors"]["w"], ARRAYS["tensors/w"])


def test_of_a_reply_the_tensors_are_passed_on_unread() -> None:
    head, files = wire.send(Packed(pb.Answer(), {"tensors/w": ARRAYS["tensors/w"]}))
    reply = wire.unpack_trained(wire.receive(head, [b"x" * len(files[0])]))
    with pytest.raises(TensorError, match="cannot be read"):
        reply.tensors["w"]


@pytest.mark.parametrize("change", [-1, 1])
def test_other_bytes_than_were_said_are_refused(change: int) -> None:
    head, files = wire.send(Packed(pb.Answer(), ARRAYS))
    content = b"".join(files)
    with pytest.raises(TensorError, match="bytes came, not"):
        wire.receive(head, [content[:change] if change < 0 else content + b"!"])


def test_more_than_may_be_is_refused_before_it_comes() -> None:
    groups = [pb.Group(name=name, size=wire.MOST_TENSOR_BYTES) for name in ("tensors", "validation")]
    with pytest.raises(TensorError, match="are too many"):
        wire.receive(pb.Answer(groups=groups), iter([]))
