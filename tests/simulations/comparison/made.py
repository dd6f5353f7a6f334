"""Findings without any training: cells, scores and summaries made up."""

from collections.abc import Sequence

import numpy as np

from melfed.common.data.records import LesionRecord
from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.summary import ClinicSummary, DataSummary, RoundSummary, RunSummary, StudyIdentity
from melfed.simulations.comparison.costs import Costs
from melfed.simulations.comparison.finding import Finding, Timing
from melfed.simulations.comparison.grid import Cell
from melfed.simulations.comparison.pairs import compare_all, rank_all
from melfed.simulations.comparison.results import Result, with_sources
from melfed.simulations.comparison.spec import Comparison
from melfed.simulations.comparison.statistics.centres import Centre
from melfed.simulations.comparison.statistics.differences import Scores, metrics_of

BACKBONES = ("simple_cnn", "mobilenet_v2", "efficientnet_lite0")
COSTS = {"simple_cnn": 1, "mobilenet_v2": 10, "efficientnet_lite0": 20}


def scores(seed: int, *, skill: float = 1.0, n: int = 200, part: int = 0) -> Scores:
    """Scores of a test part; `part` decides its images and truth, `seed` and `skill` what a model says of them."""
    truth = np.random.default_rng(part)
    targets = truth.random(n) < 0.3
    patients = tuple(f"p{part}-{k}" for k in truth.integers(0, n // 2, n))
    logits = np.random.default_rng(seed).normal(size=n) + skill * targets
    return Scores(tuple(f"{part}-{i:04d}" for i in range(n)), patients, targets, logits)


def study(backbone: str, *, pretrained: bool = False, seed: int = 0, **sections: dict[str, object]) -> StudyProtocol:
    model = {"backbone": backbone, "pretrained": pretrained}
    base = StudyProtocol(seed=seed).with_sections({"model": model, "federation": {"mode": "central", "rounds": 2}})
    return base.with_sections(sections) if sections else base


def cell(backbone: str, *, pretrained: bool = False, seed: int = 0) -> Cell:
    settings = {"model.backbone": backbone, "model.pretrained": pretrained, "seed": seed}
    return Cell(f"{backbone}-{pretrained}-{seed}", "", settings, study(backbone, pretrained=pretrained, seed=seed))


def summary(made: Cell, metrics: EvaluationMetrics, clinics: int = 0) -> RunSummary:
    rounds = tuple(
        RoundSummary(
            round=n,
            train_loss=0.5,
            validation=None,
            seconds=1.0,
            bytes_up=500_000,
            bytes_down=1_000_000,
            answered=(),
            failed={},
        )
        for n in (1, 2)
    )
    level = metrics.auroc.value or 0.5
    of_clinics = tuple(
        ClinicSummary(
            name=f"clinic {k}",
            patients=9,
            images=9,
            melanomas=3,
            test=metrics.model_copy(update={"auroc": Interval(value=level - k / 100, low=0.1, high=1.0)}),
        )
        for k in range(clinics)
    )
    data = data_summary()
    return RunSummary(
        melfed="0.2.0",
        study=StudyIdentity(name="study", digest=made.study.digest),
        mode="central",
        data=data,
        test=metrics,
        clinics=of_clinics,
        privacy=None,
        rounds=rounds,
        seconds=12.5,
        versions={},
        device="cpu",
    )


def data_summary(*, synthetic: bool = False) -> DataSummary:
    return DataSummary(
        folder="ham",
        layout="x",
        images=1000,
        melanomas=100,
        groups=500,
        groups_by="lesion",
        synthetic=synthetic,
        left_out=(),
    )


def result(made: Cell, of: Scores, clinics: int = 0) -> Result:
    metrics, factor = metrics_of(of), COSTS.get(made.study.model.backbone, 5)
    costs = Costs(100_000 * factor, 100_000 * factor, 10_000_000 * factor, 2.0 * factor)
    return Result(
        made.name,
        made.configuration,
        made.replicate,
        "finished",
        cell=made,
        scores=of,
        metrics=metrics,
        summary=summary(made, metrics, clinics),
        costs=costs,
    )


def without(made: Cell, status: str = "no weights", reason: str = "there are none <here>") -> Result:
    return Result(made.name, made.configuration, made.replicate, status, cell=made, reason=reason)


def results(seeds: Sequence[int] = (0,), *, clinics: int = 0, same: bool = False) -> list[Result]:
    """Three families, the later the better, with every seed; `same`: all have the same scores."""
    return [
        result(
            cell(backbone, seed=seed),
            scores(1000 + seed if same else 10 * seed + k, skill=1.0 if same else 0.4 + k, part=seed),
            clinics,
        )
        for k, backbone in enumerate(BACKBONES)
        for seed in seeds
    ]


def several_sources(seeds: Sequence[int] = (0,)) -> list[Result]:
    """The same results, of images of three sources; the last has hardly any melanoma."""
    made = []
    for each in results(seeds):
        targets = each.scores.targets
        rare = [
            first == 1 if target else n % 3 == 0
            for n, (target, first) in enumerate(zip(targets, np.cumsum(targets), strict=True))
        ]
        records = [
            LesionRecord(image, 0, *6 * [None], None, "Z" if is_rare else "AB"[n % 2])
            for n, (image, is_rare) in enumerate(zip(each.scores.images, rare, strict=True))
        ]
        made.append(with_sources(each, records))
    return made


def finding(
    found: Sequence[Result] | None = None,
    *,
    synthetic: bool = False,
    there: Sequence[Centre] = (),
    **comparison: object,
) -> Finding:
    made = tuple(results() if found is None else found)
    return Finding(
        Comparison(study={}, **comparison),
        ("model.backbone", "model.pretrained", "seed"),
        made,
        compare_all(made),
        rank_all(made),
        data_summary(synthetic=synthetic),
        Timing(100.0, 180.0, 2, len(made)),
        tuple(there),
    )
