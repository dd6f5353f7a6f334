"""Objects as files: as Flower's own store in all that it answers, and no file left behind."""

import hashlib
from pathlib import Path

import pytest
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from flwr.supercore.object_store import object_store_factory
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.superlink.servicer.fleet import fleet_handlers

from melfed.server.flower import superlink
from melfed.server.flower.object_files import IN_FILE, FileObjectStore, answer_head

LARGE = 1 << 16


def piece(text: bytes, children: tuple[str, ...] = ()) -> bytes:
    return f"ArrayChunk {','.join(children)} {len(text)}".encode() + b"\x00" + text


def name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


LARGE_ONE, LARGE_OTHER, SMALL = piece(b"a" * LARGE), piece(b"b" * (64 * LARGE)), piece(b"c")


def opened(folder: Path, kind: type[SqlObjectStore] = FileObjectStore) -> SqlObjectStore:
    store = kind(str(folder / "flower.db"))
    store.initialize()
    return store


def tree(*leaves: bytes, root: bytes | None = None) -> tuple[bytes, ObjectTree]:
    """A parent of some pieces, and the tree that announces them."""
    parent = piece(b"root", tuple(map(name, leaves))) if root is None else root
    return parent, ObjectTree(object_id=name(parent), children=[ObjectTree(object_id=name(leaf)) for leaf in leaves])


def database_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("flower.db*"))


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "objects").iterdir() if path.name != "handed"}


@pytest.mark.parametrize("kind", [SqlObjectStore, FileObjectStore])
def test_it_answers_as_flowers_own(tmp_path: Path, kind: type[SqlObjectStore]) -> None:
    store = opened(tmp_path, kind)
    parent, announced = tree(LARGE_ONE, LARGE_OTHER, SMALL)
    contents = {name(content): content for content in (parent, LARGE_ONE, LARGE_OTHER, SMALL)}
    assert store.get(name(LARGE_ONE)) is None
    assert set(store.preregister(1, announced)) == contents.keys()
    assert store.get(name(LARGE_ONE)) == b"", "announced, and not there yet"
    for identifier, content in contents.items():
        store.put(identifier, content)
        store.put(identifier, content)
    assert {identifier: store.get(identifier) for identifier in contents} == contents
    assert store.preregister(2, announced) == []
    store.delete(name(LARGE_ONE))
    assert store.get(name(LARGE_ONE)) == LARGE_ONE, "its parent needs it"
    store.delete(name(parent))
    assert len(store) == 0
    assert store.get(name(LARGE_ONE)) is None


def test_objects_are_files_for_as_long_as_they_are_needed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    before = database_bytes(tmp_path)
    parent, announced = tree(LARGE_ONE, SMALL)
    other, shares = tree(LARGE_ONE, LARGE_OTHER)
    for run, each in ((1, announced), (2, shares)):
        store.preregister(run, each)
    for content in (parent, other, LARGE_ONE, LARGE_OTHER, SMALL):
        store.put(name(content), content)
    assert files(tmp_path) == set(map(name, (parent, other, LARGE_ONE, LARGE_OTHER, SMALL)))
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700
    assert database_bytes(tmp_path) < before + len(LARGE_OTHER) // 4
    store.delete(name(parent))
    needed = set(map(name, (other, LARGE_ONE, LARGE_OTHER)))
    assert files(tmp_path) == needed, "the other message needs the one still"
    store.delete_objects_in_run(2)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("size", [1, 127, 128, 300, 16_383, 16_384, 5 << 20])
def test_a_file_is_flowers_answer_to_who_pulls_the_object(size: int) -> None:
    content = b"x" * size
    answer = PullObjectResponse(object_found=True, object_available=True, object_content=content)
    assert answer_head(size) + content == answer.SerializeToString()


def test_what_was_handed_over_is_there_when_it_is_announced(tmp_path: Path) -> None:
    """The ServerApp's objects are no requests; whatever nobody announces stays where it was left."""
    store = opened(tmp_path)
    parent, announced = tree(LARGE_ONE, SMALL)
    for content in (parent, LARGE_ONE, LARGE_OTHER):
        store.files.hand(name(content), content)
    assert store.preregister(1, announced) == [name(SMALL)]
    assert store.get(name(LARGE_ONE)) == LARGE_ONE
    assert store.get(name(LARGE_OTHER)) is None
    assert [path.name for path in store.files.handed.iterdir()] == [name(LARGE_OTHER)]
    assert (tmp_path / "objects" / name(parent)).read_bytes() == answer_head(len(parent)) + parent
    store.delete(name(parent))
    assert files(tmp_path) == set()


def test_what_is_staged_is_checked_before_and_kept_only_by_who_puts_it(tmp_path: Path) -> None:
    store = opened(tmp_path)
    _, announced = tree(LARGE_ONE, LARGE_OTHER)
    store.preregister(1, announced)
    with pytest.raises(ValueError, match="does not match"), store.staged(name(LARGE_ONE), LARGE_OTHER):
        raise AssertionError("it goes on")
    with store.staged(name(LARGE_ONE), LARGE_ONE):
        assert store.get(name(LARGE_ONE)) == b"", "not there yet"
        store.put(name(LARGE_OTHER), LARGE_OTHER)
        store.put(name(LARGE_ONE), b"what was staged counts")
    assert store.get(name(LARGE_ONE)) == LARGE_ONE
    assert store.get(name(LARGE_OTHER)) == LARGE_OTHER
    with store.staged(name(SMALL), SMALL):
        pass
    assert files(tmp_path) == {name(LARGE_ONE), name(LARGE_OTHER)}


def test_where_only_the_name_is_needed_nothing_is_read(tmp_path: Path) -> None:
    store = opened(tmp_path)
    _, announced = tree(LARGE_ONE)
    store.preregister(1, announced)
    with store.pointing():
        assert store.get(name(LARGE_ONE)) == b""
        assert store.get(name(LARGE_OTHER)) is None
        store.put(name(LARGE_ONE), LARGE_ONE)
        assert store.get(name(LARGE_ONE)) == IN_FILE
    assert store.get(name(LARGE_ONE)) == LARGE_ONE


def test_what_is_not_announced_or_not_what_it_says_leaves_no_file(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(NoObjectInStoreError):
        store.put(name(LARGE_ONE), LARGE_ONE)
    _, announced = tree(LARGE_ONE)
    store.preregister(1, announced)
    with pytest.raises(ValueError, match="does not match"):
        store.put(name(LARGE_ONE), LARGE_OTHER)
    garbage = b"x" * LARGE
    store.preregister(1, ObjectTree(object_id=name(garbage)))
    with pytest.raises(UnexpectedObjectContentError):
        store.put(name(garbage), garbage)
    assert files(tmp_path) == set()


def test_a_superlink_that_is_started_again_has_what_it_had_and_nothing_that_was_left(tmp_path: Path) -> None:
    store = opened(tmp_path)
    _, announced = tree(LARGE_ONE)
    store.preregister(1, announced)
    store.put(name(LARGE_ONE), LARGE_ONE)
    (tmp_path / "objects" / f"{name(LARGE_OTHER)}.17.3").write_bytes(b"half")
    store.files.put(name(LARGE_OTHER), LARGE_OTHER)
    again = opened(tmp_path)
    assert files(tmp_path) == {name(LARGE_ONE)}
    assert again.get(name(LARGE_ONE)) == LARGE_ONE
    (tmp_path / "objects" / name(LARGE_ONE)).unlink()
    assert again.get(name(LARGE_ONE)) == b"", "as one that is yet to come"
    again.clear()
    assert files(tmp_path) == set()


def test_superlink_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store_factory, "SqlObjectStore", SqlObjectStore)
    for part in ("pull_object", "push_object"):
        monkeypatch.setattr(fleet_handlers, part, getattr(fleet_handlers, part))
    superlink._keep_objects_in_files()
    store = object_store_factory.ObjectStoreFactory(str(tmp_path / "flower.db")).store()
    assert isinstance(store, FileObjectStore)
    assert (tmp_path / "objects").is_dir()
