"""Tensors that cross a boundary: what is refused, and files that give back what was put in."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from melfed.common.errors import RunError, StorageError
from melfed.common.tensors import (
    PackedTensors,
    TensorError,
    check_tensors,
    from_bytes,
    load_tensors,
    packed_in,
    save_tensors,
    shapes,
    to_bytes,
    views,
)

EXPECTED = {"a": (2, 3), "b": (), "c": (0,)}


def good() -> dict[str, np.ndarray]:
    return {"a": np.ones((2, 3), np.float32), "b": np.ones((), np.float32), "c": np.zeros(0, np.float32)}


def test_what_fits_passes() -> None:
    check_tensors(good(), EXPECTED)
    assert shapes(good()) == EXPECTED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"a": None}, r"lacks a \(1/0 in all\)"),
        ({"z": np.zeros(1, np.float32)}, r"has unknown z \(0/1 in all\)"),
        ({"a": None, "z": np.zeros(1, np.float32)}, r"lacks a and has unknown z \(1/1 in all\)"),
        ({"a": np.ones((2, 3))}, "a is float64, not float32"),
        ({"a": np.ones((2, 3), np.float16)}, "a is float16, not float32"),
        ({"a": np.ones((2, 3), np.int32)}, "a is int32, not float32"),
        ({"a": np.ones((2, 3), ">f4")}, "a is >f4, not float32"),
        ({"a": np.ones((3, 2), np.float32)}, r"a has shape \(3, 2\), not \(2, 3\)"),
        ({"a": np.ones(6, np.float32)}, r"a has shape \(6,\), not \(2, 3\)"),
        ({"b": np.ones(1, np.float32)}, r"b has shape \(1,\), not \(\)"),
        ({"a": np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)}, "a holds values that are not finite"),
        ({"a": np.full((2, 3), np.inf, np.float32)}, "a holds values that are not finite"),
        ({"b": np.array(-np.inf, np.float32)}, "b holds values that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, np.ndarray | None], reason: str) -> None:
    tensors = {name: tensor for name, tensor in {**good(), **change}.items() if tensor is not None}
    with pytest.raises(TensorError, match=reason) as excinfo:
        check_tensors(tensors, EXPECTED)
    assert "\n" not in str(excinfo.value)


tensors_of_all_kinds = st.dictionaries(
    st.text("abc./_", min_size=1, max_size=8),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=40)
@given(tensors_of_all_kinds, st.dictionaries(st.sampled_from(["round", "x"]), st.integers() | st.text() | st.none()))
def test_a_file_gives_back_tensors_and_metadata(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray], metadata: dict[str, object]
) -> None:
    path = tmp_path_factory.mktemp("tensors") / "t.safetensors"
    save_tensors(path, tensors, metadata)
    again, about = load_tensors(path)
    assert about == metadata
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        np.testing.assert_array_equal(again[name], tensor)


def test_transposed_and_sliced_arrays_are_written_as_they_look(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    tensors = {"turned": base.transpose(2, 0, 1), "part": base[:, ::2, 1:], "fortran": np.asfortranarray(base)}
    save_tensors(tmp_path / "t", tensors, {})
    again, _ = load_tensors(tmp_path / "t")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor)


def test_a_value_that_json_does_not_know_is_no_metadata(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_tensors(tmp_path / "t", good(), {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        load_tensors(tmp_path / "missing")
    path = tmp_path / "t"
    save_tensors(path, good(), {"round": 1})
    whole = path.read_bytes()
    for content in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], whole + b"x", b"\xff" * 64, b"not tensors"):
        path.write_bytes(content)
        with pytest.raises(RunError, match="not a whole safetensors file") as excinfo:
            load_tensors(path)
        assert "\n" not in str(excinfo.value)
    with pytest.raises(RunError):
        load_tensors(tmp_path)


def test_metadata_of_another_program_is_refused(tmp_path: Path) -> None:
    import safetensors.numpy

    (tmp_path / "t").write_bytes(safetensors.numpy.save(good(), {"format": "pt"}))
    with pytest.raises(RunError, match="not a whole safetensors file"):
        load_tensors(tmp_path / "t")


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t"
    save_tensors(path, {"w": np.linspace(-1, 1, 6, dtype=np.float32), "n": np.arange(3)}, {"round": 3, "digest": "ab"})
    whole = path.read_bytes()
    before = load_tensors(path)
    found = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            tensors, about = load_tensors(path)
        except RunError as error:
            one_line = "\n" not in str(error)
            found += one_line
            continue
        # The name of the digest itself, and spaces that pad the header: nothing that counts is another.
        assert {name: value for name, value in about.items() if name in before[1]} == before[1]
        assert {name: array.tobytes() for name, array in tensors.items()} == {
            name: array.tobytes() for name, array in before[0].items()
        }
    assert found > 0.9 * len(whole) - 40


def test_a_file_of_melfed_0_1_has_no_digest_and_is_read(tmp_path: Path) -> None:
    import safetensors.numpy

    (tmp_path / "t").write_bytes(safetensors.numpy.save(good(), {"round": "3"}))
    assert load_tensors(tmp_path / "t")[1] == {"round": 3}


def test_a_file_that_is_mapped_is_the_same_and_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, good(), {"round": 3})
    tensors, about = load_tensors(path, summed=True, mapped=True)
    path.unlink()
    assert described(tensors) == described(good())
    assert about == {"round": 3}
    assert not tensors["a"].flags.owndata
    content = bytearray(to_bytes(good()))
    for damaged in (b"", b"no file", bytes(content), bytes(content[:-1])):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"not a whole safetensors file|holds other than what was written"):
            load_tensors(path, summed=True, mapped=True)
    path.unlink()
    with pytest.raises(RunError, match="no such file"):
        load_tensors(path, mapped=True)


def test_tensors_packed_in_a_file_are_the_same_and_come_back_when_they_are_looked_at(tmp_path: Path) -> None:
    tensors = {"w": np.arange(1 << 18, dtype=np.float32), "b": np.ones((2, 3), np.float32)}
    packed = packed_in(tmp_path, tensors)
    assert list(tmp_path.iterdir()) == [], "the file has no name"
    assert to_bytes(packed) == to_bytes(tensors)
    assert list(packed) == ["w", "b"], "in their own order"
    view = packed["w"]
    for _ in range(2):
        assert bytes(packed.content) == to_bytes(tensors)
        assert (view == tensors["w"]).all()
        packed.rest()
    PackedTensors(bytes(packed.content)).rest()
    with pytest.raises(StorageError, match="cannot be written"):
        packed_in(tmp_path / "nowhere", tensors)


def test_packed_tensors_are_read_when_somebody_looks_and_pass_as_they_are() -> None:
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float32)}
    packed = PackedTensors(to_bytes(tensors))
    assert to_bytes(packed) is packed.content
    assert "_read" not in packed.__dict__
    assert {name: tensor.tolist() for name, tensor in packed.items()} == {n: t.tolist() for n, t in tensors.items()}
    assert len(packed) == 2
    broken = PackedTensors(b"no file")
    assert to_bytes(broken) == b"no file"
    for look in (lambda: broken["w"], lambda: len(broken), lambda: list(broken), lambda: "w" in broken):
        with pytest.raises(TensorError, match="tensors cannot be read"):
            look()


def test_a_file_without_a_sum_is_read_unless_it_must_have_one(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(to_bytes({"w": np.ones(3, np.float32)}))
    assert load_tensors(path)[0]["w"].tolist() == [1, 1, 1]
    with pytest.raises(RunError, match="holds other than what was written"):
        load_tensors(path, summed=True)


KINDS = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__" and name.isprintable()),
        hnp.arrays(st.sampled_from(KINDS), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)),
        max_size=5,
    )
)
def test_a_files_bytes_are_those_of_the_library(tensors: dict[str, np.ndarray]) -> None:
    assert to_bytes(tensors) == safetensors.numpy.save({name: np.ascontiguousarray(t).reshape(t.shape)
                                                        for name, t in tensors.items()})  # fmt: skip


def read(content: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """What the library finds in a file; None: it refuses it."""
    try:
        return described(from_bytes(content))
    except TensorError:
        return None


def described(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (each.dtype.str, each.shape, each.tobytes()) for name, each in tensors.items()}


MADE = to_bytes(
    {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, np.float16), "c": np.ones((), "i1")}
)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(MADE) - 1), st.binary(max_size=4), st.integers(0, 4))
def test_views_are_of_what_the_library_finds_and_of_nothing_that_it_refuses(
    place: int, inserted: bytes, taken: int
) -> None:
    """The header above all: bytes are put in and taken out anywhere."""
    content = MADE[:place] + inserted + MADE[place + taken :]
    try:
        found = described(views(content))
    except TensorError:
        return
    assert found == read(content)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(st.sampled_from(KINDS), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)))
def test_views_are_as_what_is_copied(tensor: np.ndarray) -> None:
    content = to_bytes({"x": tensor, "y": np.ones(3, np.float32)})
    assert described(views(memoryview(content))) == read(content)
    assert not views(content)["y"].flags.owndata
    assert not views(content)["y"].flags.writeable


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    "header",
    [
        {"w": entry(data_offsets=[0, 12])},
        {"w": entry(data_offsets=[8, 0])},
        {"w": entry(data_offsets=[-8, 0])},
        {"w": entry(data_offsets=[0, 8.0])},
        {"w": entry(data_offsets=[False, 8])},
        {"w": entry(data_offsets=[4, 12])},
        {"w": entry(shape=[-1, -2])},
        {"w": entry(shape=[1 << 62, 4])},
        {"w": entry(shape="2")},
        {"w": entry(dtype="BF16")},
        {"w": entry(dtype=["F32"])},
        {"w": entry(), "v": entry()},
        {"w": None},
        {"w": {"dtype": "F32"}},
        {},
        [],
    ],
)
def test_a_header_that_is_none_is_refused(header: object) -> None:
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    with pytest.raises(TensorError, match="tensors cannot be read"):
        views(content)
    assert read(content) is None


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\xff" * 16, b"\2" + bytes(7) + b"{}{}", b"\4" + bytes(7) + b"[[[["]
)
def test_what_is_no_file_is_refused(content: bytes) -> None:
    with pytest.raises(TensorError, match="tensors cannot be read"):
        views(content)


def test_a_header_that_is_nested_without_end_is_refused() -> None:
    text = b"[" * 200_000
    with pytest.raises(TensorError, match="tensors cannot be read"):
        views(len(text).to_bytes(8, "little") + text)


def test_other_orders_in_memory_are_written_in_the_one() -> None:
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)
    turned = {"x": np.asfortranarray(tensor), "y": tensor.astype(">f4"), "z": tensor[:, ::-1]}
    found = from_bytes(to_bytes(turned))
    assert found["x"].tolist() == found["y"].tolist() == tensor.tolist()
    assert found["z"].tolist() == tensor[:, ::-1].tolist()


@pytest.mark.parametrize("tensor", [np.array([None]), np.zeros(2, complex), np.array(["text"]), np.zeros(1, "M8[s]")])
def test_what_has_no_place_in_a_file_is_one_line(tensor: np.ndarray) -> None:
    with pytest.raises(TensorError, match="tensors cannot be sent: x is"):
        to_bytes({"x": tensor})
    with pytest.raises(TensorError, match="cannot be sent"):
        to_bytes({"__metadata__": np.zeros(1)})
