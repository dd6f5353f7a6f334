"""Damaged and hostile bytes, made of valid ones by a seeded generator."""

import copy
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import yaml

INTERESTING = (0x00, 0x01, 0x0A, 0x20, 0x22, 0x2C, 0x2D, 0x7B, 0x7F, 0x80, 0xFE, 0xFF)
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"9" * 30, b"1e-320", b"18446744073709551616", b"0.1", b"true")
WORDS = (
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"'",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"&a [*a]",
    b"!!python/object:os.system",
    b"\n- ",
)
LARGEST = 1 << 16
"""Of what is inserted at once."""

Step = Callable[[bytearray, Random], None]


HOSTILE: tuple[Any, ...] = (
    *(None, True, 0, -1, 3, 2**31, 2**63 - 1, 10**40, 0.5, 1e308, 1e-320, float("nan"), float("inf")),
    *("", "x", "x" * 5000, "a\nb\x1b[31m", "\u202e\ud800", "../../etc/passwd", "2026-13-45", "f" * 64),
    *([], {}, [None], [[[]]], {"": 0}, ["x"] * 200, {"x": {"x": {"x": []}}}),
)


def mutated(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return content with up to eight changes, mostly one; at times as it is, or with a piece of another valid one."""
    changed = bytearray(content)
    if random.random() < 0.05:
        return content
    if others and random.random() < 0.05:
        other = random.choice(others)
        changed[_place(changed, random) :] = other[_place(bytearray(other), random) :]
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 4, 8))):
        random.choice(STEPS)(changed, random)
    return bytes(changed)


def mutated_values(name: str, content: bytes, random: Random) -> bytes:
    """Return a JSON document, one a line, or a YAML document, in which one or two values or keys are others.

    What is well formed gets further into its reader than what is not.
    """
    if name.endswith(".yaml"):
        document = _other(yaml.safe_load(content), random)
        return yaml.safe_dump(document, allow_unicode=False).encode("utf-8", "replace")
    lines = content.splitlines() if name.endswith(".jsonl") else [content]
    if not lines:
        return content
    chosen = random.randrange(len(lines))
    lines[chosen] = json.dumps(_other(json.loads(lines[chosen]), random)).encode()
    return b"\n".join(lines) + b"\n"


def _other(document: Any, random: Random) -> Any:
    for _ in range(1 + random.randrange(2)):
        places = list(_places(document))
        if not places:
            return copy.deepcopy(random.choice(HOSTILE))
        holder, key = random.choice(places)
        if isinstance(holder, dict) and random.random() < 0.2:
            value = holder.pop(key)
            if random.random() < 0.5:
                holder[random.choice(("", "x", "a\nb", str(key) + "s"))] = value
        else:
            holder[key] = copy.deepcopy(random.choice(HOSTILE))
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every value of a document, as what holds it and its key or number."""
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from _places(document[key])


def mutated_member(content: bytes, random: Random) -> bytes:
    """Return a zip file with one of its members changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(file, "w") as target:
        names = source.namelist()
        chosen = random.choice(names)
        for name in names:
            member = source.read(name)
            target.writestr(name, mutated(member, random) if name == chosen else member)
    return file.getvalue()


def _place(content: bytearray, random: Random) -> int:
    # Headers decide most.
    most = min(len(content), 64) if random.random() < 0.3 else len(content)
    return random.randrange(most + 1)


def _flip(content: bytearray, random: Random) -> None:
    if content:
        content[min(_place(content, random), len(content) - 1)] ^= 1 << random.randrange(8)


def _set(content: bytearray, random: Random) -> None:
    if content:
        content[min(_place(content, random), len(content) - 1)] = random.choice(INTERESTING)


def _number(content: bytearray, random: Random) -> None:
    """Write another number over one that is written in digits."""
    found = list(re.finditer(rb"-?\d[\d.eE+-]*", content[:LARGEST]))
    if found:
        start, end = random.choice(found).span()
        content[start:end] = random.choice(NUMBERS)


def _word(content: bytearray, random: Random) -> None:
    place = _place(content, random)
    content[place:place] = random.choice(WORDS)


def _integer(content: bytearray, random: Random) -> None:
    """Write a length, a size or an offset over some bytes."""
    width, place = random.choice((2, 4, 8)), _place(content, random)
    value = random.choice((0, 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, random.randrange(1 << 16)))
    content[place : place + width] = (value % (1 << 8 * width)).to_bytes(width, random.choice(("little", "big")))


def _delete(content: bytearray, random: Random) -> None:
    place = _place(content, random)
    del content[place : place + 1 + random.randrange(32)]


def _cut(content: bytearray, random: Random) -> None:
    del content[_place(content, random) :]


def _double(content: bytearray, random: Random) -> None:
    """Repeat a piece, up to a thousand times: what nests may nest deeply."""
    place = _place(content, random)
    piece = content[place : place + 1 + random.randrange(64)]
    content[place:place] = (piece * random.choice((1, 2, 1000)))[:LARGEST]


def _noise(content: bytearray, random: Random) -> None:
    place = _place(content, random)
    content[place:place] = random.randbytes(random.randrange(32))


STEPS: tuple[Step, ...] = (_flip, _flip, _set, _number, _word, _integer, _delete, _cut, _double, _noise)
