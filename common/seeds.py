"""Independent random streams from one study seed, each named by what it is for."""

import hashlib


def seed_for(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for a named stream; different names give independent streams.

    A stream depends on its names alone, so a clinic's numbers do not change when another clinic joins, or when a run
    is resumed.

    >>> seed_for(0, "partition") == seed_for(0, "partition"), seed_for(0, "partition") == seed_for(0, "order", 1)
    (True, False)
    """
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
