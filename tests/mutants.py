"""Seven holes that melfed once had, put back one at a time: a test of the guarantee must see each of them.

Every mutant is a context manager that changes the product in this process, whatever drives it (a worker's service, or a
simulation): `with MUTANTS["split_by_counts"](): ...`. Workers and gradients must be made inside it.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch

from melfed.client.data.clinic_data import PARTS
from melfed.client.data.split import ClinicSplit
from melfed.client.privacy import gradients, shares
from melfed.client.privacy.units import Unit, units_of
from melfed.client.worker.unit_counts import UnitCounts
from melfed.client.worker.worker import ClinicWorker
from melfed.common.data.records import LesionRecord, group_ids
from melfed.common.errors import DataError
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import PartitionSpec

CELL = 10
"""To which the third mutant rounds: melfed 0.1 let the study choose it."""


@contextlib.contextmanager
def _changed(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Put other attributes in place of some owners' own."""
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


# 1, 4 and 5: gradients.


def infinite_norm() -> AbstractContextManager[None]:
    """Let an infinite norm be the largest number, so that its patient is not left out: 0 · ∞ makes the sums no number.

    The worker then puts zeros where the update was, noise and all.
    """
    return _changed((gradients.PrivateGradients, "_clip", _clip(lambda n: torch.nan_to_num(n, nan=torch.inf))))


def subnormal_factor() -> AbstractContextManager[None]:
    """Let a norm have no upper end: the factor C/norm, in single precision, is then a number of few bits."""
    clip = _clip(lambda norms: torch.nan_to_num(norms, nan=torch.inf, posinf=torch.inf))
    return _changed((gradients.PrivateGradients, "_clip", clip), (shares, "LARGEST", math.inf))


def _clip(mended: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return what adds a pass to the sums and trusts the norms, once no-numbers are mended; infinite ones are out."""

    @torch.no_grad()
    def clip(self: gradients.PrivateGradients, current: Any) -> torch.Tensor:
        result = torch.zeros(len(current.order.patients), dtype=torch.float64)
        real = torch.as_tensor(current.order.patients >= 0)
        for run, parts in zip(current.order.runs, current.shares, strict=True):
            if not parts:
                continue
            norms = mended(torch.stack([share.squares for _, share in parts]).sum(0).sqrt())
            out = norms.isinf()
            factors = self.clipping.factors(norms).where(real[run.patients], 0)
            for name, share in parts:
                share.total(factors, out if bool(out.any()) else None, shares.Sum(self.sums[name]))
            result[run.patients] = norms
        return result

    return clip


def float32_norms() -> AbstractContextManager[None]:
    """Measure the rows' norms in single precision, which many equal squares lead astray."""

    def squared_norms(rows: torch.Tensor) -> torch.Tensor:
        return torch.linalg.vector_norm(rows, dim=1).double().square()

    return _changed((shares, "squared_norms", squared_norms))


# 2: the split.


def split_by_counts() -> AbstractContextManager[None]:
    """Deal the units of a kind out by one permutation of all of them: one more moves many."""
    import melfed.client.data.loading
    import melfed.simulations.partition.partition

    return _changed(
        (melfed.client.data.loading, "split_clinic", _split_by_counts),
        (melfed.simulations.partition.partition, "split_clinic", _split_by_counts),
    )


def _split_by_counts(
    name: str,
    records: Sequence[LesionRecord],
    spec: PartitionSpec,
    key: bytes,
    unit: Unit | None = None,
    own: Sequence[int] | None = None,
) -> ClinicSplit:
    indices = sorted(range(len(records)) if own is None else own, key=lambda index: records[index].image)
    mine = [records[index] for index in indices]
    members: dict[str, list[int]] = {}
    for index, group in zip(indices, group_ids(mine) if unit is None else units_of(mine, unit), strict=True):
        if group is not None:
            members.setdefault(group, []).append(index)
    generator = np.random.default_rng(seed_for(0, "split", name, key.hex()))
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for label in (True, False):
        alike = [m for m in members.values() if any(records[index].target for index in m) == label]
        test, validation = _sizes(len(alike), spec)
        for place, number in enumerate(generator.permutation(len(alike))):
            part = "test" if place < test else "validation" if place < test + validation else "train"
            parts[part] += alike[number]
    train, validating, testing = (tuple(sorted(parts[part], key=lambda i: records[i].image)) for part in PARTS)
    return ClinicSplit(name, train, validating, testing)


def _sizes(units: int, spec: PartitionSpec) -> tuple[int, int]:
    """Return how many units of a kind are for test and for validation: rounded fractions, and one at least."""
    test = min(max(round(spec.test * units), int(spec.test > 0)), max(units - 1, 0))
    validation = min(max(round(spec.validation * units), int(spec.validation > 0)), max(units - 1 - test, 0))
    return test, validation


# 3: counts.


@dataclass(frozen=True)
class _RoundedCounts(UnitCounts):
    """Exact numbers, told as the nearest multiples of a cell."""

    def units(self, part: str) -> int:
        """Return a part's rounded number of units, at least one cell."""
        return _rounded(super().units(part))

    def told(self) -> dict[str, int]:
        """Return the rounded numbers."""
        return {name: _rounded(count) for name, count in super().told().items()}


def _rounded(count: int) -> int:
    return max(CELL, CELL * int(count / CELL + 0.5))


def rounded_counts() -> AbstractContextManager[None]:
    """Tell exact numbers, rounded to a cell, at no cost; they are the weight in the mean and the divisor too."""

    def unit_counts(self: ClinicWorker, run: str) -> UnitCounts:
        parts = tuple(part for part in PARTS if part not in self._public())
        values: list[int] = []
        for part in parts:
            records = getattr(self.data, part)
            names = units_of(records, self.study.privacy.unit)
            positive = {name for name, record in zip(names, records, strict=True) if record.target}
            values += [len(positive), len(set(names) - positive)]
        return _RoundedCounts(parts, tuple(values), 0.0)

    return _changed((ClinicWorker, "_unit_counts", unit_counts))


# 6: refusals.


def refusals_by_data() -> AbstractContextManager[None]:
    """Refuse a study for what the clinic's data are, at no cost: the kind of the error tells of patients."""
    check = ClinicWorker._check

    def with_data(self: ClinicWorker) -> None:
        check(self)
        if self.study.privacy is not None and (reason := _lacks(self)):
            raise DataError(reason)

    return _changed((ClinicWorker, "_check", with_data))


def _lacks(worker: ClinicWorker) -> str | None:
    data, study = worker.data, worker.study
    positive = sum(record.target for record in data.train)
    if not any(record.diagnosis in study.data.positive for record in data.population or data.train):
        return f"no diagnosis is called {study.data.positive[0]}"
    if len(data.train) < study.partition.minimum_images:
        return f"{len(data.train)} training images, and partition.minimum_images is {study.partition.minimum_images}"
    if positive in (0, len(data.train)):
        return "a clinic needs both classes"
    everyone = data.population or (*data.train, *data.validation, *data.test)
    if study.privacy.unit == "patient" and any(record.patient_id is None for record in everyone):
        return "patient ids are missing"
    return None


# 7: called off, and asked anew.


def called_off_again() -> AbstractContextManager[None]:
    """Let a charge reserved for work that was called off pay for another model's, and tell the computing time."""
    import melfed.client.worker.guard

    charge, train = melfed.client.worker.guard.Charge, ClinicWorker.train

    def of_any_request(*arguments: Any, **more: Any) -> Any:
        return replace(charge(*arguments, **more), request=None)

    def timed(self: ClinicWorker, *arguments: Any, **more: Any) -> Any:
        # Of this thread alone: what else the machine does meanwhile is no part of the hole.
        started = time.thread_time()
        return replace(train(self, *arguments, **more), loss=time.thread_time() - started)

    return _changed((melfed.client.worker.guard, "Charge", of_any_request), (ClinicWorker, "train", timed))


MUTANTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    mutant.__name__: mutant
    for mutant in (
        infinite_norm,
        split_by_counts,
        rounded_counts,
        subnormal_factor,
        float32_norms,
        refusals_by_data,
        called_off_again,
    )
}
"""By name, in the order in which the review told of them."""
