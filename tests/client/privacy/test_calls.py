"""Who is computed together: always one shape, and an order that one patient changes in two calls at most."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.client.privacy.calls import calls, rows_of_call


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 9), max_size=40), limit=st.integers(1, 20), data=st.data())
def test_every_chosen_patient_is_computed_once_and_shapes_depend_on_nobody_else(
    counts: list[int], limit: int, data: st.DataObject
) -> None:
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    chosen = np.array(
        sorted(data.draw(st.sets(st.sampled_from(range(len(counts)))) if counts else st.just(set()))), int
    )
    computed: list[int] = []
    for call in calls(starts, chosen, limit, np.random.default_rng(0)):
        assert len(call.rows) == len(call.patients) >= 4
        assert len(call.rows).bit_count() == 1
        each = int((call.patients == 0).sum())
        together = max(1, limit // each)
        whole = call.patients[: together * each]
        numbers = whole[::each]
        assert whole.tolist() == np.repeat(numbers, each).tolist()
        fillers = call.patients[len(whole) :]
        assert len(fillers) < max(len(whole), 4)
        assert (fillers < 0).all()
        assert len({*numbers, *fillers}) == len(numbers) + len(fillers)
        assert numbers[numbers >= 0].tolist() == list(range(int((numbers >= 0).sum())))
        patients = np.searchsorted(starts, call.rows[: len(whole)].reshape(-1, each)[:, 0], side="right") - 1
        for patient, rows in zip(patients, call.rows[: len(whole)].reshape(-1, each), strict=True):
            assert rows.tolist() == list(range(starts[patient], starts[patient + 1]))
        computed += patients[numbers >= 0].tolist()
    assert sorted(computed) == [patient for patient in chosen if counts[patient]]


def test_calls_are_no_larger_than_needed() -> None:
    assert [rows_of_call(16, expected) for expected in (0.1, 3, 5, 16, 1e9)] == [4, 4, 8, 16, 16]
    assert [rows_of_call(most, 1e9) for most in (1, 4, 7, 3276)] == [4, 4, 4, 2048]


def test_the_order_is_random() -> None:
    """Every patient comes to every place, as often as to any other."""
    starts, random = np.arange(6), np.random.default_rng(1)
    first = np.array([calls(starts, np.arange(5), 2, random)[0].rows[0] for _ in range(2000)])
    assert np.bincount(first, minlength=5).min() > 320  # 400 expected, with a standard deviation of 18
