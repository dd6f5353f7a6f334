"""Comparisons of every pair of configurations on the same test patients, corrected for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from melfed.common.metrics.intervals import FloatArray
from melfed.simulations.comparison.grid import Configuration
from melfed.simulations.comparison.results import Result, same_patients
from melfed.simulations.comparison.statistics.differences import (
    ENOUGH,
    FEWEST,
    Components,
    Difference,
    Resampling,
    Scores,
    delong,
    holm,
    replicated,
    resampled,
)
from melfed.simulations.comparison.statistics.ranks import Ranks, friedman

LEVEL = 0.05
METRICS = ("auroc", "auprc")
WITHIN = "auroc_within_sources"
Runs = Mapping[tuple[object, ...], Result]


@dataclass(frozen=True)
class Pair:
    """Two configurations, one metric.

    Attributes:
        first: of them.
        second: of them.
        metric: `auroc`, `auprc` or `auroc_within_sources`.
        runs: how many pairs of runs (seeds) there are on the same test patients.
        difference: the first's mean less the second's.
        adjusted: its p value after Holm's correction over all pairs of the metric.
    """

    first: Configuration
    second: Configuration
    metric: str
    runs: int
    difference: Difference
    adjusted: float

    @property
    def shown(self) -> bool:
        """Whether a difference is shown, at 5 % over all pairs together."""
        return self.adjusted < LEVEL


@dataclass(frozen=True)
class Compared:
    """What is said of all pairs.

    Attributes:
        pairs: every pair and metric that could be compared.
        apart: pairs of configurations without runs on the same test patients.
        few: why nothing is compared; "" where it is.
        optimism: by how much the mean AUROC of whatever is best on the test part flatters it, estimated by the
            bootstrap; None where it is not known.
    """

    pairs: tuple[Pair, ...]
    apart: int = 0
    few: str = ""
    optimism: float | None = None


def by_configuration(results: Sequence[Result]) -> dict[Configuration, dict[tuple[object, ...], Result]]:
    """Return the results that have scores, by configuration and seeds, in their order."""
    found: dict[Configuration, dict[tuple[object, ...], Result]] = {}
    for result in results:
        if result.scores is not None:
            found.setdefault(result.configuration, {})[result.replicate] = result
    return found


def compare_all(results: Sequence[Result]) -> Compared:
    """Compare every pair of configurations: AUROC by DeLong where patients are enough, all else by the bootstrap.

    AUROC within sources is compared where there are several sources, and patients enough for DeLong.
    """
    runs = by_configuration(results)
    everyone: dict[str, set[bool]] = {}
    for found in runs.values():
        for result in found.values():
            for patient, target in zip(_scores(result).patients, _scores(result).targets, strict=True):
                everyone.setdefault(patient, set()).add(bool(target))
    patients = sorted(everyone)
    with_melanoma = sum(True in truth for truth in everyone.values())
    without = sum(False in truth for truth in everyone.values())
    if min(with_melanoma, without) < FEWEST:
        return Compared((), few=f"only {min(with_melanoma, without)} patients of one class in the test part")
    study = _Study(runs, patients)
    pairs: list[tuple[Configuration, Configuration, str, int, Difference]] = []
    apart = 0
    for first, second in combinations(runs, 2):
        seeds = _common(runs[first], runs[second])
        if not seeds:
            apart += 1
            continue
        counts = _counts([_scores(runs[first][seed]) for seed in seeds])
        enough = min(counts[0], counts[1]) >= ENOUGH
        for column, metric in enumerate(METRICS):
            found_pair = (
                delong(study.components(first, seeds), study.components(second, seeds), *counts)
                if metric == "auroc" and enough
                else study.resampled(first, second, seeds, column)
            )
            pairs.append((first, second, metric, len(seeds), found_pair))
        if enough and all(_has_pairs(found[seed]) for found in (runs[first], runs[second]) for seed in seeds):
            one, other = (study.components(each, seeds, within=True) for each in (first, second))
            pairs.append((first, second, WITHIN, len(seeds), delong(one, other, *counts)))
    adjusted = {metric: iter(holm([p[4].p for p in pairs if p[2] == metric])) for metric in (*METRICS, WITHIN)}
    corrected = tuple(Pair(*pair, adjusted=next(adjusted[pair[2]])) for pair in pairs)
    return Compared(corrected, apart, "", study.optimism() if len(runs) > 1 and not apart else None)


def _scores(result: Result) -> Scores:
    assert result.scores is not None  # noqa: S101 (`by_configuration` leaves out all others)
    return result.scores


def _has_pairs(result: Result) -> bool:
    """Tell whether a result has several sources, and one with both classes."""
    return result.by_source is not None and result.by_source.within.value is not None


def _common(first: Runs, second: Runs) -> list[tuple[object, ...]]:
    """Return the seeds that two configurations have in common, with the same test patients."""
    return [
        seed
        for seed in first
        if seed in second
        and 0 < _scores(first[seed]).targets.mean() < 1
        and same_patients(_scores(first[seed]), _scores(second[seed]))
    ]


def _counts(runs: Sequence[Scores]) -> tuple[int, int, int]:
    """Return numbers of patients with a melanoma, with another image, and of all, in some test parts together."""
    positive = {p for run in runs for p, target in zip(run.patients, run.targets, strict=True) if target}
    negative = {p for run in runs for p, target in zip(run.patients, run.targets, strict=True) if not target}
    return len(positive), len(negative), len(positive | negative)


class _Study:
    """What pairs need again and again: components and replicates of each run, made when first asked for."""

    def __init__(self, runs: Mapping[Configuration, Runs], patients: Sequence[str]) -> None:
        self._runs, self._patients = runs, patients
        self._resampling = Resampling.of(len(patients), max(len(found) for found in runs.values()))
        self._replicated: dict[str, FloatArray] = {}
        self._components: dict[tuple[Configuration, tuple[object, ...], bool], Components] = {}

    def components(
        self, configuration: Configuration, seeds: Sequence[tuple[object, ...]], *, within: bool = False
    ) -> Components:
        """Return the structural components of a configuration's runs, pooled or within sources."""
        key = (configuration, tuple(seeds), within)
        if key not in self._components:
            results = [self._runs[configuration][seed] for seed in seeds]
            sources = [each.by_source.of_images for each in results if each.by_source] if within else None
            self._components[key] = Components([_scores(each) for each in results], self._patients, sources)
        return self._components[key]

    def resampled(
        self, first: Configuration, second: Configuration, seeds: Sequence[tuple[object, ...]], column: int
    ) -> Difference:
        """Return the difference of a metric's means by the bootstrap over patients and seeds."""
        replicates, values = [], []
        for seed in seeds:
            a, b = self._runs[first][seed], self._runs[second][seed]
            replicates.append((self._of(a) - self._of(b))[:, column])
            values.append(_value(a, column) - _value(b, column))
        return resampled(np.array(values), np.stack(replicates), self._resampling.uniform)

    def optimism(self) -> float:
        """Return how much the best of a replicate's mean AUROCs is worse on the real patients, on average."""
        means = np.stack(
            [np.mean([self._of(r)[:, 0] for r in found.values()], axis=0) for found in self._runs.values()]
        )
        true = np.array([np.mean([_value(r, 0) for r in found.values()]) for found in self._runs.values()])
        means = means[:, np.isfinite(means).all(axis=0)]
        best = means.argmax(axis=0)
        return float(np.mean(means[best, np.arange(means.shape[1])] - true[best]))

    def _of(self, result: Result) -> FloatArray:
        if result.name not in self._replicated:
            self._replicated[result.name] = replicated(_scores(result), self._patients, self._resampling)
        return self._replicated[result.name]


def _value(result: Result, column: int) -> float:
    value: float | None = getattr(result.metrics, METRICS[column]).value
    return float("nan") if value is None else value


@dataclass(frozen=True)
class Ranking:
    """Mean ranks by AUROC, and what the blocks are.

    Attributes:
        configurations: in the order of the ranks.
        ranks: None where there are too few blocks or configurations.
        blocks: what a block is, in words; or why there is no ranking.
    """

    configurations: tuple[Configuration, ...]
    ranks: Ranks | None
    blocks: str


def rank_all(results: Sequence[Result]) -> Ranking:
    """Rank configurations by AUROC: over seeds where there are three or more, else over the clinics' test parts."""
    runs = by_configuration(results)
    if len(runs) < 3:
        return Ranking(tuple(runs), None, "fewer than three configurations")
    seeds = [seed for seed in next(iter(runs.values())) if all(seed in found for found in runs.values())]
    if len(seeds) >= 3:
        values = [[_value(found[seed], 0) for found in runs.values()] for seed in seeds]
        return _ranking(tuple(runs), np.array(values), "seeds")
    clinics = {c: _by_clinic(found) for c, found in runs.items()}
    trained = {c: found for c, found in clinics.items() if found}
    names = sorted(set.intersection(*(set(found) for found in trained.values()))) if trained else []
    if len(names) < 3 or len(trained) < 3:
        return Ranking(
            tuple(runs), None, "fewer than three seeds, and fewer than three clinics with both classes in test"
        )
    values = [[found[name] for found in trained.values()] for name in names]
    return _ranking(tuple(trained), np.array(values), "clinics' test parts")


def _ranking(configurations: tuple[Configuration, ...], values: FloatArray, blocks: str) -> Ranking:
    return Ranking(configurations, friedman(values), blocks)


def _by_clinic(found: Runs) -> dict[str, float]:
    """Return a configuration's AUROC on each clinic's own test part, the mean over its runs."""
    values: dict[str, list[float]] = {}
    for result in found.values():
        for clinic in result.summary.clinics if result.summary else ():
            if clinic.test.auroc.value is not None:
                values.setdefault(clinic.name, []).append(clinic.test.auroc.value)
    return {name: float(np.mean(each)) for name, each in values.items() if len(each) == len(found)}
