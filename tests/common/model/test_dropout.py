"""Dropout draws what `torch.manual_seed` would have it draw, and nothing is kept for devices that are not there."""

import torch

from melfed.common.model.dropout import seed_dropout

CPU = torch.device("cpu")


def mask() -> list[float]:
    return torch.nn.functional.dropout(torch.ones(64), 0.5).tolist()


def test_the_masks_are_those_of_torchs_own_seed() -> None:
    torch.manual_seed(2**62 + 5)
    expected = mask()
    seed_dropout(CPU, 2**62 + 5)
    assert mask() == expected


def test_without_a_seed_each_is_another() -> None:
    masks = []
    for _ in range(4):
        seed_dropout(CPU, None)
        masks.append(mask())
    assert all(one != other for number, one in enumerate(masks) for other in masks[:number])


def test_nothing_is_kept_for_devices_that_are_not_there() -> None:
    queued = torch.cuda._queued_calls
    before = len(queued)
    for seed in (1, 2, None, None):
        seed_dropout(CPU, seed)
    assert len(queued) == before
