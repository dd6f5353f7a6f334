"""Gaussian noise from a cryptographic stream.

Noise that can be predicted protects nobody, so it never comes from the study's seed, nor from the global generators
of torch and numpy: every call takes a new 256-bit key from the operating system and expands it with ChaCha20. Nothing
is kept between calls, so a fork, a copy or a restored machine cannot draw the same noise twice.

**Floating point.** A Gaussian number computed in floating point takes fewer values than the mathematics has, and which
values it can take may tell what it was added to (Mironov, CCS 2012; Holohan & Braghin, arXiv 2107.10138, who invert
the Box-Muller transform). As the latter propose, each number here is the scaled sum of four independent ones from four
different pairs of uniforms: to invert it is to search more than 2¹⁵⁹ combinations. Add the noise in float64 and round
the sum to float32 afterwards, which hides another 29 bits. This is a defence against the known attacks, not a proof;
the proof of `NoiseSource.gaussian` is that of real numbers.

**Sums of clipped gradients** are rounded too, and by other amounts where one patient more is there: `ROUNDING` says how
much further than C apart two neighbouring clinics' sums can lie, and `clipped_sum_std` makes the noise that much wider.

**Counts.** `integers_gaussian` is the Gaussian rounded to the nearest integer. For a count n, n + round(z) equals
round(n + z): the release is that of the Gaussian mechanism, processed further, so whatever the accounting says of the
Gaussian (PLD, RDP, sampled or composed) holds for the count as well. The discrete Gaussian (Canonne, Kamath & Steinke,
arXiv 2004.00010) would be as good in Rényi terms but not in those of the privacy loss distribution: at σ = 1 and ε = 0
its δ is 0.399, that of the Gaussian 0.383. Its advantage, integer arithmetic, is mostly won by rounding too: no low
bits are left to look at, and the probability of an integer differs from that of the mathematics by rounding error
(about 1e-15) alone.
"""

import math
import os
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms

from melfed.common.errors import StudyError

ROUNDING: Final = 0.008
"""How far rounding can move the clipped sum of the others when one patient joins or leaves, in C; the worst case.

Clipped gradients themselves do not depend on who else is there, and one patient changes two calls
(`melfed.client.privacy. calls`), thus two float32 sums before and after, each off by at most 4160 · 8 · 2⁻²⁴ C =
0.00199 C (`melfed.client.privacy. shares`): 0.00794 C. The float64 additions of all groups add 2 · 2⁻⁵³ · N²/2 · C for
N
patients: 1.2e-6 C for 100,000.
"""

_SUMMED = 4
"""Independent normals in one number: the 2n of Holohan & Braghin, with n = 2."""
_CHUNK = 1 << 14
"""Numbers made at a time, so that the intermediate arrays stay in the processor's cache."""
_LARGEST_INTEGER_STD = 1e15
"""Beyond this, float64 does not hold every integer of the noise (they reach 19 standard deviations)."""


class NoiseSource:
    """Noise for one clinic's releases; see the module for what it promises.

    Args:
        entropy: a function that returns so many random bytes; another than the operating system's only in tests.
    """

    def __init__(self, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._entropy = entropy

    def gaussian(self, shape: tuple[int, ...], std: float) -> npt.NDArray[np.float64]:
        """Return independent draws from N(0, std²); exact zeros at std 0.

        Raises:
            StudyError: where std is negative or not finite.
        """
        if not 0 <= std < math.inf:
            raise StudyError(
                f"noise with a standard deviation of {std} cannot be drawn; state a finite one, at least 0"
            )
        numbers = np.zeros(math.prod(shape))
        if std > 0:
            # The key is used for this call alone, so the nonce may be fixed.
            stream = Cipher(algorithms.ChaCha20(self._entropy(32), bytes(16)), mode=None).encryptor()
            for start in range(0, len(numbers), _CHUNK):
                chunk = numbers[start : start + _CHUNK]
                chunk[:] = _summed_normals(stream, len(chunk)) * std
        return numbers.reshape(shape)

    def integers_gaussian(self, shape: tuple[int, ...], std: float) -> npt.NDArray[np.int64]:
        """Return independent draws from N(0, std²) rounded to integers, for counts; exact zeros at std 0.

        Raises:
            StudyError: where std is negative, not finite, or above 1e15.
        """
        if std > _LARGEST_INTEGER_STD:
            raise StudyError(
                f"noise with a standard deviation of {std:g} drowns every count; state one of at most "
                f"{_LARGEST_INTEGER_STD:g}"
            )
        return np.rint(self.gaussian(shape, std)).astype(np.int64)


def clipped_sum_std(noise_multiplier: float, clipping_norm: float) -> float:
    """Return the standard deviation of the noise on a clipped sum: σC, made wider by what rounding can add to C."""
    return noise_multiplier * clipping_norm * (1 + ROUNDING)


def _summed_normals(stream: CipherContext, count: int) -> npt.NDArray[np.float64]:
    """Standard normals, each the scaled sum of four that Box & Muller's transform makes of 64-bit words."""
    pairs = (count + 1) // 2
    words = np.frombuffer(stream.update(bytes(2 * _SUMMED * pairs * 8)), dtype=np.int64).reshape(2, _SUMMED, pairs)
    # |x| of a signed word has 63 uniform bits: fine steps near 0, where the tail is made (up to 9.4 for each summand).
    uniform = (np.abs(words[0].astype(np.float64)) + 0.5) * 2.0**-63
    radius = np.sqrt(np.maximum(-2.0 * np.log(uniform), 0.0))
    angle = words[1].astype(np.float64) * (math.pi * 2.0**-63)
    cosine = np.einsum("sn,sn->n", radius, np.cos(angle))
    sine = np.einsum("sn,sn->n", radius, np.sin(angle))
    return np.concatenate([cosine, sine])[:count] / math.sqrt(_SUMMED)
