"""Normalisation layers that share nothing between images."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from melfed.common.model.norms import FrozenStatisticsNorm, group_norm


def test_frozen_norm_is_batch_norm_in_evaluation_with_its_names() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6, eps=1e-3)
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    frozen = FrozenStatisticsNorm(norm).train()
    batch = torch.randn(4, 6, 5, 5)
    torch.testing.assert_close(frozen(batch), norm.eval()(batch))
    assert set(frozen.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    assert not list(frozen.buffers())
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})


@given(st.integers(1, 2048))
def test_groups_divide_the_channels(channels: int) -> None:
    norm = group_norm(nn.BatchNorm2d(channels, eps=0.5))
    size = channels // norm.num_groups
    assert norm.num_groups * size == channels
    assert norm.num_groups == 1 or (norm.num_groups <= 32 and size >= 4)
    larger = range(norm.num_groups + 1, 33)
    assert not any(channels % groups == 0 and channels // groups >= 4 for groups in larger)
    assert norm.eps == 0.5
