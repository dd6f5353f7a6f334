"""A SuperNode's store with its objects as files: as Flower's own in all that it answers."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_all_nested_objects,
    get_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.flower.object_files import IN_FILE, hand
from melfed.client.flower.object_store import FileObjectStore
from melfed.common.process.object_folder import ObjectFolder
from tests.client.flower.objects import CONTENTS, ONE, OTHER, PARENT, TREE, files, name


@pytest.mark.parametrize("kind", ["Flower's", "files", "a full disk"])
def test_it_answers_as_flowers_own(folder: ObjectFolder, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store: InMemoryObjectStore = InMemoryObjectStore() if kind == "Flower's" else FileObjectStore(folder)
    if kind == "a full disk":
        monkeypatch.setattr(folder, "put", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert store.get(name(ONE)) is None
    with pytest.raises(NoObjectInStoreError):
        store.put(name(ONE), ONE)
    assert set(store.preregister(1, TREE)) == CONTENTS.keys()
    assert store.get(name(ONE)) == b""
    for identifier, content in CONTENTS.items():
        store.put(identifier, content)
    assert {identifier: store.get(identifier) for identifier in CONTENTS} == CONTENTS
    with pytest.raises(ValueError, match="does not match"):
        store.put(name(ONE), OTHER)
    with pytest.raises(UnexpectedObjectContentError):
        store.put(name(b"x"), b"x")
    store.delete(name(PARENT))
    assert len(store) == 0
    assert kind == "Flower's" or files(folder) == set()


def test_a_supernode_begins_with_an_empty_folder_and_knows_what_is_there(folder: ObjectFolder) -> None:
    folder.make()
    folder.put(name(ONE), ONE)
    folder.hand(name(OTHER), OTHER)
    store = FileObjectStore(folder)
    assert files(folder) == set()
    assert not list(folder.handed.iterdir())
    store.preregister(1, TREE)
    assert not store.holds(CONTENTS)
    with pytest.raises(ValueError, match="does not match"):
        store.put(name(ONE), IN_FILE)  # there is no such file
    for identifier, content in CONTENTS.items():
        store.put(identifier, content)
    assert store.holds(CONTENTS)
    assert not store.holds([*CONTENTS, "c" * 64])
    store.clear()
    assert files(folder) == set()


def test_what_the_clientapp_has_handed_over_is_there_when_it_is_announced(
    folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, number, 7)
    store = FileObjectStore(folder)
    reply = Message(RecordDict({"tensors": ArrayRecord([np.arange(5.0)])}), dst_node_id=1, message_type="train")
    identifier = reply.object_id
    hand(folder, reply)
    assert store.preregister(1, get_object_tree(reply)) == []
    parts = {part: store.get(part) or b"" for part in get_all_nested_objects(reply)}
    found = inflate_object_from_contents(identifier, parts)
    assert isinstance(found, Message)
    assert (found.content["tensors"]["0"].numpy() == np.arange(5.0)).all()
