"""Lines of JSON, each with the hash of the line before it: what the audit log and the ledger are made of.

A line is one JSON object. It names the line before it in `previous` (64 zeros in the first) and ends with `hash`: the
SHA-256 of the line's own bytes before `,"hash":`. So a line that was changed, dropped, moved or doubled is found by
reading; what was cut off at the end is not.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

GENESIS = "0" * 64
"""What stands for the hash of the line before the first."""

Content = dict[str, object]

_END = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_END_LENGTH = len(',"hash":""}') + 64


class NoRowError(ValueError):
    """A line is not as it was written; the text says how."""


def seal(row: Mapping[str, object]) -> Content:
    """Return a row, which is not empty, with its `hash`. Raises ValueError where a number is not finite."""
    return {**row, "hash": hashlib.sha256(_json(row)[:-1]).hexdigest()}


def to_line(sealed: Mapping[str, object]) -> bytes:
    """Return a sealed row as it is written, with the end of the line."""
    return _json(sealed) + b"\n"


def unseal(line: bytes) -> Content:
    """Return the row of a line without its end, `hash` included. Raises NoRowError."""
    body, end = line[:-_END_LENGTH], _END.fullmatch(line[-_END_LENGTH:])
    if end is None:
        raise NoRowError("is not a whole row (it does not end with a hash)")
    if hashlib.sha256(body).hexdigest().encode() != end[1]:
        raise NoRowError("its content is not what its hash was taken of: it was changed")
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NoRowError(f"is not a JSON object ({error})") from None
    if not isinstance(row, dict):
        raise NoRowError("is not a JSON object")
    return row


def _json(row: Mapping[str, object]) -> bytes:
    return json.dumps(row, separators=(",", ":"), allow_nan=False).encode("ascii")


def _unique(pairs: Iterable[tuple[str, object]]) -> Content:
    content: Content = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"key {key!r} stands there twice")
        content[key] = value
    return content


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no number")
