"""pathological: so many classes a clinic, each class divided evenly among the clinics that have it."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from melfed.common.errors import StudyError
from melfed.common.partition.pathological import DEAL
from melfed.common.partition.scheme import Dealt
from tests.common.partition.dealing import Options, deal


def of_classes(counts: list[int]) -> Dealt:
    names = [name for name, count in zip("abcdef", counts, strict=False) for _ in range(count)]
    return Dealt(np.zeros(len(names), np.bool_), names)


@settings(deadline=None, max_examples=25)
@given(
    counts=st.lists(st.integers(12, 20), min_size=2, max_size=6),
    clinics=st.integers(2, 6),
    each=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_each_clinic_has_its_classes_and_each_class_is_divided_evenly(
    counts: list[int], clinics: int, each: int, seed: int
) -> None:
    assume(each <= len(counts) <= clinics * each)
    dealt = of_classes(counts)
    owners = deal(DEAL, dealt, clinics, Options(classes=each), seed)
    names = np.array(dealt.classes)
    held = np.array([np.bincount(owners[names == name], minlength=clinics) for name in sorted(set(names))])
    assert ((held > 0).sum(axis=0) == each).all()
    holders = (held > 0).sum(axis=1)
    assert holders.max() - holders.min() <= 1
    for row in held:
        assert np.ptp(row[row > 0]) <= 1


def test_two_classes_and_two_clinics_of_one_class_are_parted_whole() -> None:
    owners = deal(DEAL, of_classes([3, 5]), 2, Options(classes=1))
    assert sorted(np.bincount(owners).tolist()) == [3, 5]
    assert len(set(owners[:3])) == len(set(owners[3:])) == 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(StudyError, match=r"^partition.classes is 3, but there are 2 classes \(a, b\); ask for fewer"):
        deal(DEAL, of_classes([3, 5]), 2, Options(classes=3))
    with pytest.raises(StudyError, match=r"^2 clinics of 1 classes have no room for 3 \(a, b, c\): raise partition"):
        deal(DEAL, of_classes([3, 5, 4]), 2, Options(classes=1))
