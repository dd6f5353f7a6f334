"""The generator that dropout draws from: torch's own of the device, since its layers take no other."""

import torch


def seed_dropout(device: torch.device, seed: int | None) -> None:
    """Seed the generator of the device that is computed on; where there is no seed, by the operating system.

    `torch.manual_seed` seeds those of all kinds of devices, and writes down its call stack for each that is absent. It
    takes some eighty times as long (torch 2.14), and was a seventh of a small clinic's training.

    Args:
        device: that the network lies on.
        seed: of 63 bits; None: a new one.
    """
    generator = torch.default_generator
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generator = torch.cuda.default_generators[index]
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
