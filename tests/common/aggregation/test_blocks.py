"""Block by block is as all at once, whatever the size of a block."""

import numpy as np
import pytest

from melfed.common.aggregation import blocks
from tests.common.aggregation.updates import assert_like, drawn


@pytest.mark.parametrize("size", [1, 4, 35, 1000])
def test_a_value_is_reduced_over_updates_in_place(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", size)
    updates = drawn(5)
    found = blocks.by_value(updates, lambda block: block.max(axis=0))
    assert_like(found, {name: np.max([update[name] for update in updates], axis=0) for name in updates[0]})


def test_blocks_hold_all_values_in_order_and_are_no_larger_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)
    tensor = np.arange(10, dtype=np.float32).reshape(2, 5)
    found = list(blocks.blocks(tensor))
    assert [len(block) for block in found] == [4, 4, 2]
    assert np.concatenate(found).tolist() == list(range(10))
    rows = list(blocks.stacks([tensor, tensor + 10]))
    assert [row.shape for row in rows] == [(2, 4), (2, 4), (2, 2)]
    assert rows[0].dtype == np.float64
    assert rows[0][1].tolist() == [10, 11, 12, 13]
