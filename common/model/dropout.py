"""The generator that dropout draws from: torch's own of the device, since its layers take no other."""

import torch


def seed_dropout(device: torch.device, seed: int | None) -> None:
    """Seed the generator of the device that is computed on; where there is no seed, by the operating system.

    `torch.manual_seed` seeds those of all kinds of devices. For each that is absent it keeps the call, with its
    stack, until the process ends: over many rounds that took a seventh of a small clinic's training, and memory without
    bound.

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
