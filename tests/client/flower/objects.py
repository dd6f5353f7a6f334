"""Objects of Flower, pieces of a message, and the folder that holds them."""

import hashlib

from flwr.proto.message_pb2 import ObjectTree

from melfed.common.process.object_folder import ObjectFolder


def piece(text: bytes, children: tuple[str, ...] = ()) -> bytes:
    return f"ArrayChunk {','.join(children)} {len(text)}".encode() + b"\x00" + text


def name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


ONE, OTHER = piece(b"one"), piece(b"other" * 100_000)
PARENT = piece(b"root", (name(ONE), name(OTHER)))
TREE = ObjectTree(object_id=name(PARENT), children=[ObjectTree(object_id=name(leaf)) for leaf in (ONE, OTHER)])
CONTENTS = {name(content): content for content in (ONE, OTHER, PARENT)}


def files(folder: ObjectFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {"handed"}
