"""What is dealt out in the tests of schemes."""

from dataclasses import dataclass

import numpy as np

from melfed.common.partition.scheme import Deal, Dealt, Owners


@dataclass(frozen=True)
class Options:
    """What a study states."""

    alpha: float = 1.0
    classes: int | None = None


def groups(positive: int, negative: int) -> Dealt:
    """Groups with and without a positive image, whose classes say the same."""
    return Dealt(np.repeat([True, False], [positive, negative]), ["mel"] * positive + ["nv"] * negative)


def deal(scheme: Deal, dealt: Dealt, clinics: int, options: Options = Options(), seed: int = 0) -> Owners:
    """Each group's clinic; that it is one of them, and that the seed decides, holds of every scheme."""
    owners = scheme(dealt, clinics, options, np.random.default_rng(seed))
    assert owners.shape == (len(dealt.positive),)
    assert owners.min(initial=0) >= 0
    assert owners.max(initial=0) < clinics
    np.testing.assert_array_equal(owners, scheme(dealt, clinics, options, np.random.default_rng(seed)))
    return owners


def sizes(scheme: Deal, count: int, clinics: int, options: Options = Options()) -> list[int]:
    """How many of so many groups each clinic gets, whatever their labels."""
    found = np.bincount(deal(scheme, groups(count // 4, count - count // 4), clinics, options), minlength=clinics)
    again = np.bincount(deal(scheme, groups(0, count), clinics, options), minlength=clinics)
    assert found.tolist() == again.tolist()
    return found.tolist()
