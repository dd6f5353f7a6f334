"""What the cells of a comparison gave: a row a cell, as a table of all metrics, and the scores behind it."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars

from melfed.common.data.records import LesionRecord
from melfed.common.errors import RunError
from melfed.common.files import atomic_write, write_text
from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.common.metrics.intervals import UNDEFINED
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RunSummary
from melfed.simulations.comparison.costs import Costs
from melfed.simulations.comparison.grid import Cell, Configuration, cell_folder, shown
from melfed.simulations.comparison.starts import Start, start_scores
from melfed.simulations.comparison.statistics.differences import Scores, metrics_of
from melfed.simulations.comparison.statistics.sources import BySource, by_source
from melfed.simulations.predictions import NAME

Status = Literal["finished", "failed", "no weights", "start"]
INTERVALS = (
    "auroc",
    "auprc",
    "balanced_accuracy",
    "sensitivity_at_90_specificity",
    "sensitivity_at_95_specificity",
)
NUMBERS = (
    "threshold_at_90_specificity",
    "threshold_at_95_specificity",
    "brier",
    "ece",
    "images",
    "melanomas",
    "patients",
)


@dataclass(frozen=True)
class Result:
    """A cell, or a warm start, and what it gave.

    Attributes:
        name: of its folder.
        configuration: what differs from others but for seeds.
        replicate: its seeds.
        status: how it ended.
        cell: None of a start.
        reason: why there is no result; "" where there is one.
        scores: of the test part.
        metrics: of these scores, exact; None without a result.
        summary: of its run.
        costs: of its network.
        by_source: what the scores are worth within sources; None without a result, or where there is one source.
    """

    name: str
    configuration: Configuration
    replicate: tuple[object, ...]
    status: Status
    cell: Cell | None = None
    reason: str = ""
    scores: Scores | None = None
    metrics: EvaluationMetrics | None = None
    summary: RunSummary | None = None
    costs: Costs | None = None
    by_source: BySource | None = None


def result_of(out: Path, cell: Cell, failure: str | None, no_weights: str | None, costs: Costs | None) -> Result:
    """Return a cell's result, or why it has none.

    Raises:
        RunError: its folder is damaged.
    """
    common: dict[str, Any] = {"cell": cell, "costs": costs}
    identity = cell.name, cell.configuration, cell.replicate
    if no_weights is not None:
        return Result(*identity, "no weights", reason=no_weights, **common)
    if failure is not None:
        return Result(*identity, "failed", reason=failure, **common)
    folder = cell_folder(out, cell)
    scores = read_scores(folder / NAME)
    summary = RunFolder.open(folder).summary()
    return Result(*identity, "finished", scores=scores, metrics=metrics_of(scores), summary=summary, **common)


def start_result(out: Path, start: Start, costs: Costs | None) -> Result | None:
    """Return what a warm start gave; None where it could not be scored."""
    path = start_scores(out, start)
    if not path.exists():
        return None
    scores = read_scores(path)
    return Result(
        start.name,
        start.configuration,
        start.replicate,
        "start",
        scores=scores,
        metrics=metrics_of(scores),
        costs=costs,
    )


def read_scores(path: Path) -> Scores:
    """Return the scores of a run's `predictions.parquet`. Raises RunError where it is missing or damaged."""
    try:
        table = polars.read_parquet(path, columns=["image", "group", "target", "logit"]).sort("image")
    except FileNotFoundError:
        raise RunError(f"{path}: missing; remove the run's folder, and let it be run again by --resume") from None
    except (OSError, polars.exceptions.PolarsError) as error:
        raise RunError(f"{path}: damaged ({error}); remove the run's folder, and run it again by --resume") from None
    return Scores(
        tuple(table["image"]), tuple(table["group"]), table["target"].to_numpy() == 1, table["logit"].to_numpy()
    )


def with_sources(result: Result, records: Sequence[LesionRecord]) -> Result:
    """Return a result with what its scores are worth within sources, where it has scores of several.

    Args:
        result: of a cell or a start.
        records: of its images, and others.
    """
    if result.scores is None:
        return result
    source_of = {record.image: record.source for record in records}
    sources = [source_of[image] for image in result.scores.images]
    return replace(result, by_source=by_source(result.scores, sources)) if len(set(sources)) > 1 else result


def row(result: Result, keys: Sequence[str]) -> dict[str, object]:
    """Return a result as a row: what varied, metrics of the test part, ε, seconds, bytes, and what the network costs.

    Args:
        result: of a cell or a start.
        keys: what varies in the comparison.
    """
    named = dict(result.configuration)
    settings = result.cell.settings if result.cell else {}
    found: dict[str, object] = {"name": result.name, "group": named.get("group", ""), "status": result.status}
    found |= {key: shown(settings[key]) if key in settings else named.get(key) for key in keys}
    found |= _metric_columns(result.metrics)
    found |= _source_columns(result.by_source)
    found |= _run_columns(result.summary)
    costs = result.costs
    found |= {name: getattr(costs, name) if costs else None for name in ("parameters", "trained", "flops")}
    found |= {"latency_ms": costs.latency if costs else None, "reason": result.reason}
    return found


def _metric_columns(metrics: EvaluationMetrics | None) -> dict[str, object]:
    columns: dict[str, object] = {}
    for name in INTERVALS:
        columns |= _interval_columns(name, getattr(metrics, name) if metrics else UNDEFINED)
    return columns | {name: getattr(metrics, name) if metrics else None for name in NUMBERS}


def _source_columns(found: BySource | None) -> dict[str, object]:
    columns = _interval_columns("auroc_within_sources", found.within if found else UNDEFINED)
    return {**columns, "auroc_source_alone": found.alone if found else None}


def _interval_columns(name: str, interval: Interval) -> dict[str, object]:
    return {f"{name}{end}": getattr(interval, what) for end, what in _ENDS.items()}


_ENDS = {"": "value", "_low": "low", "_high": "high"}


def _run_columns(summary: RunSummary | None) -> dict[str, object]:
    if summary is None:
        names = ("mode", "reported_auroc", "reported_auprc", "epsilon", "epsilon_spent", "delta")
        return dict.fromkeys((*names, "rounds", "seconds", "bytes_up", "bytes_down", "digest", "device"))
    privacy = summary.privacy
    return {
        "mode": summary.mode,
        # Where a study's evaluation is noised, its own report has these, and the others here are exact.
        "reported_auroc": summary.test.auroc.value,
        "reported_auprc": summary.test.auprc.value,
        "epsilon": privacy.epsilon if privacy else None,
        "epsilon_spent": privacy.epsilon_spent if privacy else None,
        "delta": privacy.delta if privacy else None,
        "rounds": len(summary.rounds),
        "seconds": summary.seconds,
        "bytes_up": sum(each.bytes_up for each in summary.rounds),
        "bytes_down": sum(each.bytes_down for each in summary.rounds),
        "digest": summary.study.digest,
        "device": summary.device,
    }


TEXT = frozenset({"name", "group", "status", "mode", "digest", "device", "reason"})
WHOLE = frozenset(
    {"images", "melanomas", "patients", "rounds", "bytes_up", "bytes_down", "parameters", "trained", "flops"}
)


def write_rows(out: Path, rows: Sequence[Mapping[str, object]], keys: Sequence[str], stem: str = "results") -> None:
    """Write `results.parquet` and `results.csv`. Raises StorageError."""
    columns = list(rows[0])
    text, whole = TEXT | set(keys), WHOLE
    schema = {
        name: polars.String if name in text else polars.Int64 if name in whole else polars.Float64 for name in columns
    }
    table = polars.DataFrame([dict(each) for each in rows], schema=schema)
    with atomic_write(out / f"{stem}.parquet") as file:
        table.write_parquet(file)
    lines = io.StringIO()
    writer = csv.DictWriter(lines, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / f"{stem}.csv", lines.getvalue())


def same_patients(first: Scores, second: Scores) -> bool:
    """Tell whether two runs were judged on the same test images, with the same truth."""
    return first.images == second.images and bool(np.array_equal(first.targets, second.targets))
