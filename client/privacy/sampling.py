"""Poisson sampling of privacy units: the sampling that the accounting assumes."""

import secrets

import numpy as np
import numpy.typing as npt

from melfed.common.errors import StudyError


def poisson_sample(units: int, rate: float, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the units that take part in a step: each one independently, with the same probability.

    The size of the sample is random (binomial), and may be 0: such a step is taken too, as one of pure noise. Shuffled
    batches of a fixed size are another mechanism, and weaker than the accounting would say.

    Args:
        units: how many units there are.
        rate: q, the probability of each; met to within 2⁻⁵³, the step of the uniform numbers. At 1 all take part.
        random: `secure_generator()`; in tests any generator.

    Returns:
        Indices below `units`, ascending, each at most once.

    Raises:
        StudyError: for a rate outside (0, 1], or a negative number of units.

    >>> poisson_sample(5, 1.0, secure_generator()).tolist()
    [0, 1, 2, 3, 4]
    >>> poisson_sample(1000, 0.1, np.random.default_rng(0)).size
    89
    """
    if not 0 < rate <= 1:
        raise StudyError(f"sampling rate {rate:g} is outside (0, 1]; state the probability that a unit takes part")
    if units < 0:
        raise StudyError(f"{units} units cannot be sampled; the number of units is at least 0")
    return np.flatnonzero(random.random(units) < rate)


def secure_generator() -> np.random.Generator:
    """Return a new generator for sampling, seeded with 384 bits of the operating system's randomness.

    Amplification by sampling holds against those who do not know the sample, so it must not follow from the study's
    seed. Philox (Salmon et al. 2011) because its whole key and counter can be set, and its output is a keyed
    permutation of the counter; the noise itself comes from a stronger stream (`noise.NoiseSource`).
    """
    return np.random.Generator(np.random.Philox(key=secrets.randbits(128), counter=secrets.randbits(256)))
