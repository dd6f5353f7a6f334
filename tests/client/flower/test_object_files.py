"""A SuperNode's objects as files: received from SuperLink, read and handed over by its ClientApp."""

import threading
import time
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError, pull_objects
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.flower import object_files
from melfed.client.flower.object_files import IN_FILE, hand, read, received
from melfed.client.flower.object_store import FileObjectStore
from melfed.common.process.object_folder import ObjectFolder
from tests.client.flower.objects import CONTENTS, ONE, OTHER, TREE, files, name


def test_what_comes_from_superlink_is_a_file_at_once_once_it_is_what_it_says(folder: ObjectFolder) -> None:
    store = FileObjectStore(folder)
    missing = store.preregister(1, TREE)
    fetched = received(folder, pull_objects)(missing, CONTENTS.__getitem__)
    assert fetched == dict.fromkeys(missing, IN_FILE)
    assert files(folder) == CONTENTS.keys()
    for identifier, content in fetched.items():
        store.put(identifier, content)
    assert {identifier: store.get(identifier) for identifier in CONTENTS} == CONTENTS
    with pytest.raises(ObjectPullError, match="does not match"):
        received(folder, pull_objects)([name(ONE)], lambda _: OTHER)


def test_the_clientapp_waits_for_a_file_and_asks_for_what_comes_as_none(
    folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.make()
    asked: list[Any] = []

    def make(*parts: Any) -> Any:
        def pull(identifier: str) -> bytes:
            asked.append((*parts, identifier))
            raise ObjectUnavailableError(identifier)

        return pull

    pull = read(folder, make)("client", 7)
    later = threading.Timer(0.1, folder.put, (name(ONE), ONE))
    later.start()
    assert pull(name(ONE)) == ONE
    assert asked == []
    monkeypatch.setattr(object_files, "ASK_SECONDS", 0.05)
    began = time.monotonic()
    with pytest.raises(ObjectUnavailableError):
        pull(name(OTHER))
    assert asked == [("client", 7, name(OTHER))]
    assert time.monotonic() - began < 2


def test_a_message_is_cut_as_flower_does_it(folder: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, number, 7)
    monkeypatch.setattr(object_files, "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1000)
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1000)
    content = RecordDict({"tensors": ArrayRecord([np.arange(1000.0), np.zeros(500), np.zeros(0)])})
    message = Message(content, dst_node_id=1, message_type="train")
    expected = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    for array in content.array_records["tensors"].values():
        del array.__dict__["_chunks"]
    folder.make()
    hand(folder, message)
    assert {path.name: path.read_bytes() for path in folder.handed.iterdir()} == expected
    assert len(expected) > 12
