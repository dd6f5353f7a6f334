"""Two worlds that draw alike: noise out, and for whoever both hold the same sampling, views and dropout.

Whatever noise covers is a *release*: the exact numbers of a step, of moments, of histograms, of counts. The first world
keeps its exact numbers; the second one goes on with the first one's in place of its own, which is what equal noised
numbers mean. So all that leaves the two worlds must be the same to the last bit, however many questions follow one
another, while the releases themselves may differ by the sensitivity that the noise is made for.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

import melfed.client.training.private
import melfed.client.worker.evaluation
import melfed.client.worker.guard
import melfed.client.worker.worker
from melfed.client.approval import run_budget
from melfed.client.ledger.journal import Journal
from melfed.client.privacy import accounting, plan
from melfed.client.privacy.accounting import CrossCheck, Mechanism
from melfed.client.privacy.noise import NoiseSource
from melfed.client.training.inputs import CachedInputs, PixelInputs
from melfed.client.training.private import PrivateTrainer, UnitRows
from melfed.client.worker.guard import Guard
from melfed.client.worker.reply_store import reply_key
from melfed.common.data.augmentation import Augmentation, Parameters
from melfed.common.metrics.noisy_histogram import SENSITIVITY, NoisyHistogram
from melfed.common.model import inference
from melfed.common.moments import noisy_moments
from melfed.common.moments.noisy_moments import NoisyMoments
from tests.neighbours.clinics import SIZE

Kind = Literal["training", "moments", "histograms", "subgroups", "counts"]
Vector = npt.NDArray[np.float64]
ROWS = 64
"""Of a batch: more than the calls of a step have here."""
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Release:
    """Numbers that leave with noise.

    Attributes:
        kind: of what.
        public: everything about them but their values: shapes, the noise that was drawn, divisors.
        exact: without noise, one vector.
        sensitivity: what one patient may change of it (L2); the noise is made for that.
        covered: whether every number received noise of at least σ times the sensitivity, σ as charged.
    """

    kind: Kind
    public: tuple[object, ...]
    exact: Vector
    sensitivity: float
    covered: bool


@dataclass
class World:
    """One clinic, and what was seen of it.

    Attributes:
        first: the world whose releases take the place of this one's; None: this is the first.
        releases: in their order.
        leaving: what leaves, each with the question that it answers.
        begun: the questions that patients were looked at for.
        charged: the ledger's charges for such: purpose, σ, steps, sampling rate.
        one: the unit of the patient that only one world has.
        free: whether neither ledger nor budget is asked: for a search that asks very often.
        call_off: called after the next step of training, which ends the computation.
    """

    first: "World | None" = None
    releases: list[Release] = field(default_factory=list)
    leaving: list[tuple[str, bytes]] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)
    charged: list[tuple[object, ...]] = field(default_factory=list)
    one: str = ""
    free: bool = False
    call_off: Callable[[], None] | None = None
    draws: list[tuple[tuple[int, ...], float]] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    rows: list[str] | None = None
    moment: int = 0

    def release(self, kind: Kind, public: tuple[object, ...], exact: Vector, sensitivity: float, sigma: float) -> bool:
        """Keep a release; returns whether the first world's takes its place."""
        numbers = sum(math.prod(shape) for shape, _ in self.draws)
        enough = all(std >= sigma * sensitivity > 0 for _, std in self.draws)
        facts = (*public, tuple(self.draws))
        self.draws.clear()
        self.releases.append(Release(kind, facts, exact, sensitivity, enough and numbers == exact.size))
        return self.others() is not None

    def others(self) -> Vector | None:
        """Return the exact numbers of the first world's release in the place of this one's last."""
        place = len(self.releases) - 1
        if self.first is None or place >= len(self.first.releases):
            return None
        theirs, mine = self.first.releases[place], self.releases[place]
        return theirs.exact if (theirs.kind, theirs.exact.shape) == (mine.kind, mine.exact.shape) else None


@contextlib.contextmanager
def coupled(world: World, *, quick: bool = True) -> Iterator[None]:
    """Let the product run in a world.

    Args:
        world: which.
        quick: whether a formula takes the place of the accountants, which see no patient and take seconds a study.
    """
    with contextlib.ExitStack() as stack:
        changes = [*_draws(world), *_releases(world), *_ledger(world), *(_accounting() if quick else ())]
        # Evaluations compute whole batches, whatever images there are: of a few patients these are mostly filling.
        changes.append((inference, "CPU_MICRO_BATCH_PIXELS", ROWS * SIZE**2))
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


Change = tuple[Any, str, Any]


def _number(*names: object) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()[:8], "big") >> 1


def _draws(world: World) -> list[Change]:
    """Return what makes every random decision follow from whom it is about, and from the step."""
    of, cached, pixel_logits, cached_logits = (
        UnitRows.of,
        CachedInputs.__init__,
        PixelInputs.logits,
        CachedInputs.logits,
    )
    draw, dropout = Augmentation.draw, torch.nn.functional.dropout

    def units_of(units: list[str], views: int) -> UnitRows:
        world.units = list(dict.fromkeys(units))
        return of(units, views)

    class Order:
        """The order in which patients are computed: whoever joins takes a place, and who was there becomes the last."""

        def permutation(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            order = sorted(numbers, key=lambda number: _number("order", world.units[number], world.moment))
            joined = [place for place, number in enumerate(order) if world.units[number] == world.one]
            if joined:
                one = order.pop(joined[0])
                order.insert(joined[0], one)
                order = [*order[: joined[0] + 1], *order[joined[0] + 2 :], *order[joined[0] + 1 : joined[0] + 2]]
            return np.array(order, np.int64)

    def sample(units: int, rate: float, _random: object) -> npt.NDArray[np.int64]:
        assert units == len(world.units)
        world.moment += 1
        places = [_number("sample", name, world.moment) / 2**63 for name in world.units]
        return np.flatnonzero(np.array(places) < rate).astype(np.int64)

    def with_images(self: CachedInputs, split: Any, features: Any, images: Any, *more: Any) -> None:
        cached(self, split, features, images, *more)
        self.images = images  # type: ignore[attr-defined]

    def known(logits: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def of_rows(self: Any, images: Any, views: Any = None) -> torch.Tensor:
            numbers = np.zeros(len(images), int) if views is None else views
            names = [self.images.records[int(image)].image for image in images]
            world.rows = [f"{name} {view}" for name, view in zip(names, numbers, strict=True)]
            try:
                return logits(self, images, views)
            finally:
                world.rows = None

        return of_rows

    def generators(purpose: object, count: int) -> list[torch.Generator]:
        rows = [*(world.rows or ()), *(f"filler {place}" for place in range(count - len(world.rows or ())))]
        return [torch.Generator().manual_seed(_number(purpose, row, world.moment)) for row in rows]

    def augmented(self: Augmentation, n: int, generator: torch.Generator) -> Parameters:
        if world.rows is None:
            return draw(self, n, generator)
        drawn = [draw(self, 1, own) for own in generators("view", n)]
        return Parameters(*(np.concatenate([getattr(d, f) for d in drawn]) for f in ("symmetries", "gains", "offsets")))

    def dropped(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        if world.rows is None or not training or not p:
            return dropout(input, p, training, inplace)
        kept = [torch.rand(input.shape[1:], generator=own) >= p for own in generators("dropout", len(input))]
        return input * torch.stack(kept).to(input.dtype) / (1 - p)

    return [
        (UnitRows, "of", units_of),
        (melfed.client.training.private, "poisson_sample", sample),
        (melfed.client.training.private, "secure_generator", Order),
        (CachedInputs, "__init__", with_images),
        (PixelInputs, "logits", known(pixel_logits)),
        (CachedInputs, "logits", known(cached_logits)),
        (Augmentation, "draw", augmented),
        (torch.nn.functional, "dropout", dropped),
    ]


def _releases(world: World) -> list[Change]:
    """Return what takes the noise out, keeps the exact numbers, and puts the first world's in their place."""
    release, moments, histograms, subgroups, counts = (
        PrivateTrainer._release,
        melfed.client.worker.worker.noised_moments,
        melfed.client.worker.evaluation.noised_histograms,
        melfed.client.worker.evaluation.noised_subgroups,
        melfed.client.worker.worker.noised,
    )

    def no_noise(_: NoiseSource, shape: tuple[int, ...], std: float) -> Vector:
        world.draws.append((shape, std))
        return np.zeros(shape)

    def released(self: PrivateTrainer, sums: dict[str, torch.Tensor], sigma: float, expected: float) -> None:
        exact = np.concatenate([sums[name].double().cpu().numpy().ravel() for name in self.parameters])
        # Once for what is drawn: the step itself follows, with the numbers of the first world.
        world.draws.clear()
        release(self, sums, sigma, expected)
        public = (sigma, expected, tuple((name, tuple(sums[name].shape)) for name in self.parameters))
        if world.release("training", public, exact, self.privacy.clipping_norm, sigma):
            _spread(world.others(), sums, list(self.parameters))
            release(self, sums, sigma, expected)
            world.draws.clear()
        if world.call_off is not None:
            call_off, world.call_off = world.call_off, None
            call_off()

    def noised_moments(parts: Any, sigma: float, noise: NoiseSource) -> dict[str, NoisyMoments]:
        world.draws.clear()
        made = moments(parts, sigma, noise)
        names = [(part, name) for part in made for name in noisy_moments.CLASSES]
        exact = np.concatenate([getattr(made[part], name) for part, name in names]).astype(np.float64)
        if world.release("moments", (sigma, tuple(names)), exact, noisy_moments.SENSITIVITY, sigma):
            arrays = dict(zip(names, np.split(world.others().astype(np.int64), len(names)), strict=True))
            made = {
                part: NoisyMoments(arrays[part, "positives"], arrays[part, "negatives"], made[part].noise_variance)
                for part in made
            }
        return made

    def others_histograms(
        kind: Kind, made: dict[str, NoisyHistogram], sensitivity: float, sigma: float, edges: Vector
    ) -> dict[str, NoisyHistogram]:
        names = [(part, name) for part in made for name in ("positives", "negatives")]
        exact = np.concatenate([getattr(made[part], name) for part, name in names])
        public = (sigma, tuple(names), edges.tobytes())
        if not world.release(kind, public, exact.astype(np.float64), sensitivity, sigma):
            return made
        arrays = dict(zip(names, np.split(world.others().astype(np.int64), len(names)), strict=True))
        return {
            part: NoisyHistogram(edges, arrays[part, "positives"], arrays[part, "negatives"], made[part].noise_variance)
            for part in made
        }

    def noised_histograms(parts: Any, sigma: float, noise: NoiseSource, edges: Vector) -> dict[str, NoisyHistogram]:
        world.draws.clear()
        return others_histograms("histograms", histograms(parts, sigma, noise, edges), SENSITIVITY, sigma, edges)

    def noised_subgroups(
        records: Any, logits: Any, units: Any, attributes: Any, sigma: float, noise: NoiseSource, edges: Vector
    ) -> dict[str, NoisyHistogram]:
        world.draws.clear()
        made = subgroups(records, logits, units, attributes, sigma, noise, edges)
        # What the noise is made for, and not what the product says that it is.
        sensitivity = math.sqrt(len(attributes)) * SENSITIVITY
        return others_histograms("subgroups", made, sensitivity, sigma, edges)

    def noised(parts: Mapping[str, Sequence[Any]], unit: Any, sigma: float, noise: NoiseSource) -> tuple[int, ...]:
        world.draws.clear()
        values = counts(parts, unit, sigma, noise)
        if world.release("counts", (sigma, tuple(parts)), np.array(values, np.float64), 1.0, sigma):
            return tuple(int(value) for value in world.others())
        return values

    return [
        (NoiseSource, "gaussian", no_noise),
        (PrivateTrainer, "_release", released),
        (melfed.client.worker.worker, "noised_moments", noised_moments),
        (melfed.client.worker.evaluation, "noised_histograms", noised_histograms),
        (melfed.client.worker.evaluation, "noised_subgroups", noised_subgroups),
        (melfed.client.worker.worker, "noised", noised),
    ]


def _spread(values: Vector, sums: dict[str, torch.Tensor], names: Sequence[str]) -> None:
    """Write one vector's numbers into tensors."""
    start = 0
    for name in names:
        count = sums[name].numel()
        part = torch.from_numpy(values[start : start + count].copy()).view(sums[name].shape)
        sums[name].copy_(part)
        start += count


def _ledger(world: World) -> list[Change]:
    """Return what makes the ledgers' clocks and keyed names of the data the same, and notes who is looked at."""
    begin, pay, count = Journal.__init__, Guard.pay, Guard.counts

    def noon(self: Journal, path: Any, disk: Any, _clock: Any) -> None:
        begin(self, path, disk, lambda: NOON)

    def paid(self: Guard, purpose: Any, request: Any, compute: Callable[[], Any]) -> Any:
        question = reply_key(self.study.digest, request.run, request.round, purpose, request.tensors)

        def counted() -> Any:
            world.begun.add(question)
            return compute()

        return counted() if world.free else pay(self, purpose, request, counted)

    def counts(self: Guard, run: str, compute: Callable[[], Any]) -> Any:
        return compute() if world.free else count(self, run, compute)

    return [
        (Journal, "__init__", noon),
        # Nobody cuts the power here.
        (os, "fsync", lambda _: None),
        # It is keyed by the clinic's secret: to whoever lacks that, a random number.
        (melfed.client.worker.guard, "fingerprint", lambda _data, _key: "d" * 64),
        (Guard, "pay", paid),
        (Guard, "counts", counts),
    ]


def _accounting() -> list[Change]:
    """Return a formula in place of the accountants: Gaussian differential privacy, sampling by its central limit."""

    def mu(history: Sequence[Mechanism]) -> float:
        return math.sqrt(sum(m.steps * (m.sampling_rate / m.noise_multiplier) ** 2 for m in history))

    def epsilon(history: Sequence[Mechanism], delta: float) -> float:
        total = mu(history)
        return total**2 / 2 + total * math.sqrt(2 * math.log(1 / delta))

    def noise_multiplier(
        wanted: float, delta: float, sampling_rate: float, steps: int, others: Sequence[Mechanism] = ()
    ) -> float:
        root = math.sqrt(2 * math.log(1 / delta))
        total = (math.sqrt(root**2 + 2 * wanted) - root) ** 2 - mu(others) ** 2
        return sampling_rate * math.sqrt(steps / total)

    def cross_check(history: Sequence[Mechanism], delta: float) -> CrossCheck:
        return CrossCheck(epsilon(history, delta), None, epsilon(history, delta))

    owners = [(plan, "noise_multiplier", noise_multiplier), (plan, "cross_check", cross_check)]
    return [*((owner, "epsilon", epsilon) for owner in (accounting, plan, run_budget)), *owners]
