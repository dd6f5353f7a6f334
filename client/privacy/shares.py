"""What one parameter adds to the clipped sums, in two forms, and how far rounding can lead either astray.

A layer's input x and the gradient g of the summed losses at its output, both (images, ...), hold every patient's
gradient; autograd need not form the weight gradient of the batch (book-keeping: Bu et al., arXiv 2210.00038). The
patients seen here have equally many images, which lie together. There are two forms:

- *rows*: the patients' gradients themselves, (patients, parameters);
- *ghost*: their norms alone, from inner products between positions (Goodfellow, arXiv 1510.01799; Li et al., arXiv
  2110.05679), where positions are few and parameters many. The sum is then one ordinary weight gradient, of scaled g.

**A patient's share is at most C(1 + 1e-6), for every x and g.** Let u = 2⁻²⁴, what rounding to float32 costs.

- Rows are summed as they were measured, so the only question is their norm; short ones are measured side by side.
  Squares are added by 32 in float32, and then in float64: too small by 34 u at most; `NORM_SLACK` adds more. Squares
  that vanish (values below 2⁻⁶³) are worth √parameters · 2⁻⁶³ < 1e-14 of a norm that matters only from C ≥ 1e-6 on;
  where they overflow, the norm is infinite. The factor's rounding and the product's cost 2 u = 1.2e-7.
- The ghost form measures one thing and sums another. Its inner products are float64, of float32 values exactly: too
  small by `squares_error` · T² at most, which is added; T, the *reach*, is the length that the terms |x_t|·|g_t| of a
  gradient have together, Σ_t |x_t|·|g_t|. The sum over a patient's own positions is float32: off by
  (positions + 3) u T at most, whatever the order of its additions, which is added to the norm. What is lost as too
  small: f·g_t below 2⁻¹²⁶ times x_t. A patient with a vector longer than `LARGEST` = 2⁵⁰ (no honest network reaches
  1e15) is left out, so that each loss is at most 2⁻⁷⁶, and positions · √parameters ≤ 2³⁴ of them less than 3e-13.

**What company may change.** Where several patients are summed in float32, a sum of K terms is off by K u times the
terms' lengths together. Clipping holds a patient's reach (of rows: its length) below `CANCELLATION` · C, and `groups`
sums n patients of P positions at once with n²·P ≤ `TOGETHER`, so a group of two or more is off by
(nP + 1) u · n · CANCELLATION · C ≤ 4160 · 8 u C < 0.002 C. Groups are added in float64. What follows from that for the
noise: `melfed.client.privacy.noise.ROUNDING`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

ROW_COST: Final = 16
"""Multiplications that take as long as one value of a row: written once and read twice (measured on a CPU)."""

ROW_MEMORY: Final = 8
"""Largest rows, in sizes of the tensors x and g that they replace."""

CANCELLATION: Final = 8.0
"""Largest reach, in C, of what remains of a float32 gradient. Longer ones are clipped as if they were that much longer.

On noise and smooth random images no backbone's gradient had a reach beyond 3 times its length, but for VGG-11 with 8.4.
"""

TOGETHER: Final = 1 << 12
"""Largest n²·T: patients and positions of one float32 sum."""

LARGEST: Final = 2.0**50
"""A longer vector of x or g in the ghost form leaves its patient out."""

NORM_BLOCK: Final = 32
NORM_SLACK: Final = 36 * 2.0**-24
"""Values whose squares are added in float32, and what is added to the result's square, as a part of it."""

NORM_SHORT: Final = 2048
"""Parameters up to which a float64 norm is as fast."""

SHORT: Final = 8192
"""Parameters up to which rows are joined with others': a call for each costs more than the copy."""

CHUNK: Final = 1 << 15
"""Values that are converted to float64 at a time: 256 KiB, which stay in the processor's cache."""


class Share(NamedTuple):
    """What one parameter adds, for some patients. All tensors are float64, (patients,)."""

    parameter: str
    squares: Tensor
    """Squared norms of the patients' gradients, never below the truth."""
    reach: Tensor
    """Squared lengths of the terms of each sum together."""
    error: float
    """What a patient's own sum can be longer than its norm, as a part of the terms' length."""
    total: "Total"


class Rows(NamedTuple):
    """The share of few parameters: the patients' gradients, for `Joined`. It can do what a `Share` can."""

    parameter: str
    values: Tensor
    """(patients, parameters)."""
    shape: tuple[int, ...]
    order: tuple[int, ...] | None
    """Of the dimensions of `shape` that makes the parameter's; None: they lie as the parameter's do."""

    @property
    def squares(self) -> Tensor:
        """As a share's."""
        return squared_norms(self.values)

    @property
    def reach(self) -> Tensor:
        """As a share's."""
        return self.squares

    @property
    def error(self) -> float:
        """As a share's."""
        return 0.0

    def placed(self, values: Tensor) -> Tensor:
        """Return values (parameters,) in the parameter's shape."""
        return values.view(self.shape) if self.order is None else values.view(self.shape).permute(self.order)

    def total(self, factors: Tensor, broken: Tensor | None, into: "Sum") -> None:
        """Add to a sum; a `Total`."""
        for values in scaled_sums(self.values, factors, broken):
            into.add(self.placed(values))


class Sum:
    """A running sum, float64, in the parameter's shape.

    Attributes:
        values: the sum; where it is fresh, whatever a former one left there.
        fresh: whether nothing was added yet: what comes first is written, and no zeros need be.
    """

    def __init__(self, values: Tensor, *, fresh: bool = False) -> None:
        self.values, self.fresh = values, fresh

    def add(self, values: Tensor) -> None:
        """Add as many values of any type, in the order in which the sum lies in memory.

        Piece by piece: adding float32 to float64 in one call takes three times as long.
        """
        order = sorted(range(self.values.dim()), key=self.values.stride, reverse=True)
        flat, added = self.values.permute(order).view(-1), values.view(self.values.shape).permute(order).reshape(-1)
        if self.fresh:
            flat.copy_(added)
            self.fresh = False
            return
        for part, piece in zip(torch.split(flat, CHUNK), torch.split(added, CHUNK), strict=True):
            part.add_(piece.double())


Total = Callable[[Tensor, Tensor | None, Sum], None]
"""Adds the gradients times their factors, float64 (patients,), to a sum.

The second argument, bool (patients,), says whose gradients are not finite, and count as zero; None: nobody's.
"""


def rows_share(parameter: str, rows: Tensor, order: tuple[int, ...] | None = None) -> Share | Rows:
    """Return the share of a parameter from its patients' gradients, (patients, *shape).

    Args:
        parameter: its name in the layer.
        rows: the gradients.
        order: of the dimensions of `shape` that makes the parameter's; None: they lie as the parameter's do.
    """
    short = Rows(parameter, rows.flatten(1), tuple(rows.shape[1:]), order)
    if short.values.shape[1] <= SHORT:
        return short
    squares = short.squares  # now, while they are in the processor's cache
    return Share(parameter, squares, squares, 0.0, short.total)


class Joined(NamedTuple):
    """The rows of several parameters side by side."""

    names: list[str]
    rows: list[Rows]
    """Their values are parts of those below."""
    values: Tensor
    """(patients, parameters of all)."""
    squares: Tensor
    """As a share's."""

    @classmethod
    def of(cls, named: Sequence[tuple[str, Rows]]) -> "Joined":
        """Join rows, at least one, with their parameters' names in the model."""
        values = torch.cat([rows.values for _, rows in named], 1)
        parts = torch.split(values, [rows.values.shape[1] for _, rows in named], 1)
        rows = [rows._replace(values=part) for (_, rows), part in zip(named, parts, strict=True)]
        return cls([name for name, _ in named], rows, values, squared_norms(values))

    def total(self, factors: Tensor, broken: Tensor | None, into: Mapping[str, Sum]) -> None:
        """Add to the sums of all parameters, by their names; otherwise a `Total`."""
        for added in scaled_sums(self.values, factors, broken):
            parts = torch.split(added.double(), [rows.values.shape[1] for rows in self.rows])
            for name, rows, part in zip(self.names, self.rows, parts, strict=True):
                into[name].add(rows.placed(part))


def scaled_sums(values: Tensor, factors: Tensor, broken: Tensor | None) -> Iterator[Tensor]:
    """Return the sums of groups of patients' gradients (patients, parameters) times their factors."""
    for part in groups(len(values), 1):
        yield factors[part].to(values.dtype) @ counted(values[part], None if broken is None else broken[part])


def product_share(x: Tensor, g: Tensor, images: int) -> Share | Rows:
    """Return the share of a matrix that maps x (images, positions, p) to an output of g (images, positions, d)."""
    x, g = (t.reshape(t.shape[0] // images, -1, t.shape[2]) for t in (x, g))
    positions, p, d = x.shape[1], x.shape[2], g.shape[2]
    activations = positions * (p + d)
    small = positions > 1 and p * d <= activations
    if small or (positions * activations > ROW_COST * p * d and p * d <= ROW_MEMORY * activations):
        return rows_share("weight", torch.bmm(g.mT, x))

    def total(factors: Tensor, broken: Tensor | None, into: Sum) -> None:
        for part in groups(len(x), positions):
            out = None if broken is None else broken[part]
            scaled = counted(g[part], out) * factors[part].to(g.dtype)[:, None, None]
            added = scaled.flatten(0, 1).mT @ counted(x[part], out).flatten(0, 1)
            into.add(added)

    if positions == 1:
        lengths_x, lengths_g = (torch.linalg.vector_norm(t[:, 0], dim=1, dtype=torch.float64) for t in (x, g))
        squares = reach = (lengths_x * lengths_g).square()
        far = torch.maximum(lengths_x, lengths_g).square()
    else:
        products, weights = inner_products(x), inner_products(g)
        squares_x, squares_g = (t.diagonal(dim1=1, dim2=2) for t in (products, weights))
        reach = (squares_x * squares_g).sqrt().sum(1).square()
        far = torch.maximum(squares_x.amax(1), squares_g.amax(1))
        squares = (products * weights).sum((1, 2))
    return ghost_share(squares, reach, far, (positions, p + d), x.dtype, total)


def ghost_share(
    squares: Tensor, reach: Tensor, far: Tensor, sizes: tuple[int, int], kind: torch.dtype, total: Total
) -> Share:
    """Return the share of a weight in ghost form.

    Args:
        squares: squared norms by inner products, float64 (patients,).
        reach: likewise, T².
        far: likewise, the square of the longest vector of x and g.
        sizes: a patient's positions, and the additions in one inner product of x and one of g together.
        kind: of the sums.
        total: the sum.
    """
    positions, additions = sizes
    squares_error = (positions**2 + additions + 8) * torch.finfo(torch.float64).eps / 2
    reach = reach.masked_fill(~(far <= LARGEST**2), torch.inf)
    error = (positions + 3) * torch.finfo(kind).eps / 2
    return Share("weight", squares.clamp(min=0) + squares_error * reach, reach, error, total)


def inner_products(vectors: Tensor) -> Tensor:
    """Return those of all positions, float64 (patients, positions, positions), of vectors (patients, positions, p)."""
    exact = vectors.double()
    return torch.bmm(exact, exact.mT)


def squared_norms(rows: Tensor) -> Tensor:
    """Return the squared norms of rows (patients, parameters), float64 (patients,), never below the truth."""
    parameters = rows.shape[1]
    if rows.dtype == torch.float64 or parameters <= NORM_SHORT:
        squares: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64).square()
        return squares
    whole = parameters // NORM_BLOCK * NORM_BLOCK
    blocks = rows[:, :whole].reshape(len(rows), -1, NORM_BLOCK)
    squares = torch.linalg.vector_norm(blocks, dim=2).double().square_().sum(1)
    squares += torch.linalg.vector_norm(rows[:, whole:], dim=1, dtype=torch.float64).square()
    return squares * (1 + NORM_SLACK)


def groups(patients: int, positions: int) -> Iterator[slice]:
    """Return which patients are summed at once."""
    size = max(1, math.isqrt(TOGETHER // positions))
    return (slice(start, start + size) for start in range(0, patients, size))


def counted(values: Tensor, broken: Tensor | None) -> Tensor:
    """Return values, (patients · any, ...), with zeros for some patients: 0 · ∞ would be no number."""
    if broken is None:
        return values
    each = broken.repeat_interleave(len(values) // len(broken))
    return values.masked_fill(each.view(-1, *(1 for _ in values.shape[1:])), 0)


def by_patient(rows: Tensor, images: int) -> Tensor:
    """Add up the rows of every patient's images: (patients · images, ...) to (patients, ...)."""
    return rows if images == 1 else rows.view(-1, images, *rows.shape[1:]).sum(1)
