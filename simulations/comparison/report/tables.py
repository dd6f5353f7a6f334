"""The tables of a comparison, as text: what page and PDF both show."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from melfed.common.metrics.exact import Interval
from melfed.simulations.comparison.finding import Finding
from melfed.simulations.comparison.grid import Configuration, label
from melfed.simulations.comparison.pairs import WITHIN, Pair
from melfed.simulations.comparison.report.paper import NAME, Value, published
from melfed.simulations.comparison.results import Result
from melfed.simulations.comparison.statistics.differences import seed_interval
from melfed.simulations.comparison.statistics.sources import FEW, OfSource

METRICS = {"auroc": "AUROC", "auprc": "AUPRC", "balanced_accuracy": "Balanced accuracy at 0.5"}
PAIRED = {"auroc": "AUROC", "auprc": "AUPRC", WITHIN: "AUROC within sources"}
"""Metrics by which pairs are compared."""
LISTED_PAIRS = 60


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: what it shows.
        spans: headings over several columns, each with their number; the first column has none.
        columns: headings.
        rows: cells, each a value and what stands small below it.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, str], ...], ...]
    spans: tuple[tuple[str, int], ...] = ()


def tables(found: Finding) -> list[Table]:
    """Return all tables of a comparison."""
    made = [result_table(found)]
    if found.comparison.published == NAME:
        made.append(paper_table(found))
    if any(result.by_source for result in found.results):
        made.append(source_table(found))
    if found.centres:
        made.append(centre_table(found))
    made.append(cost_table(found))
    if found.compared.pairs:
        made.append(pair_table(found))
    if found.failed:
        made.append(_failures(found))
    return made


def result_table(found: Finding) -> Table:
    """Return a row a family and three columns a way of training: the layout of arXiv 2011.04475."""
    by_place = _placed(found)
    rows = list(dict.fromkeys(row for row, _ in by_place))
    columns = list(dict.fromkeys(column for _, column in by_place))
    body = tuple(
        ((row, ""), *(cell for column in columns for cell in _metric_cells(by_place.get((row, column), []))))
        for row in rows
    )
    spans = tuple((column or "Test part", len(METRICS)) for column in columns)
    seeds = max(len(results) for results in by_place.values())
    what = (
        f"mean ± half of its 95 % t interval over {seeds} seeds"
        if seeds > 1
        else "one seed; below a value its 95 % interval over patients"
    )
    return Table(
        f"Test part, all clinics pooled: {what}.",
        (_row_key(found), *(tuple(METRICS.values()) * len(columns))),
        body,
        spans,
    )


def _row_key(found: Finding) -> str:
    keys = [key for result in found.results for key, _ in result.configuration]
    return (
        "model.backbone" if "model.backbone" in keys else next((key for key in keys if key != "group"), "configuration")
    )


def _placed(found: Finding) -> dict[tuple[str, str], list[Result]]:
    """Return the results by row and column."""
    key = _row_key(found)
    placed: dict[tuple[str, str], list[Result]] = {}
    for result in found.results:
        named = dict(result.configuration)
        rest = tuple(pair for pair in result.configuration if pair[0] != key)
        row = named.get(key, label(rest))
        column = label(rest) if rest and key in named else ""
        placed.setdefault((row, column), []).append(result)
    return placed


def _metric_cells(results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    for name in METRICS:
        yield metric_cell(results, name)


def metric_cell(results: Sequence[Result], name: str) -> tuple[str, str]:
    """Return a metric of a configuration's runs as text, and what stands below it."""
    return _interval_cell(results, [getattr(r.metrics, name) for r in results if r.metrics])


def _interval_cell(results: Sequence[Result], intervals: Sequence[Interval]) -> tuple[str, str]:
    values = [i.value for i in intervals if i.value is not None]
    missing = len(results) - len(intervals)
    if not results:
        return "–", ""
    if not values:
        return ("undefined" if intervals else results[0].status), ""
    if len(values) == 1:
        only = next(i for i in intervals if i.value is not None)
        return f"{values[0]:.3f}", f"{only.low:.3f}–{only.high:.3f}" + (f"; {missing} missing" if missing else "")
    mean, half = seed_interval(values)
    return f"{mean:.3f} ± {half:.3f}", f"{len(values)} of {len(results)} runs" if len(values) < len(results) else ""


def source_table(found: Finding) -> Table:
    """Return what the scores are worth within sources, and how much of the pooled AUROC needs no look at a lesion."""
    names = sorted({own.name for r in found.results if r.by_source for own in r.by_source.sources})
    rows = []
    for configuration, results in grouped(found.results).items():
        split = [r.by_source for r in results if r.by_source]
        own = [[each for by in split for each in by.sources if each.name == name] for name in names]
        rows.append(
            (
                (label(configuration), ""),
                metric_cell(results, "auroc"),
                _alone_cell(results),
                _interval_cell(results, [by.within for by in split]),
                *(_own_cell(results, each) for each in own),
            )
        )
    caption = (
        "By source. Within sources: of pairs of a melanoma and another image of the same source. Source alone: the "
        "pooled AUROC of a score that is the prevalence of melanomas in the image's source, and below it how much of "
        f"the pooled AUROC above 0.5 that is. A source is withheld where a run's test part has fewer than {FEW} "
        "patients of a class in it; its counts are in sources.csv."
    )
    columns = ("Configuration", "AUROC, pooled", "Source alone", "AUROC within sources", *names)
    return Table(caption, columns, tuple(rows))


def _alone_cell(results: Sequence[Result]) -> tuple[str, str]:
    """Return the AUROC of the source alone, and its part of what the pooled AUROC has above chance."""
    both = [
        (r.by_source.alone, r.metrics.auroc.value)
        for r in results
        if r.by_source and r.metrics and r.by_source.alone is not None and r.metrics.auroc.value is not None
    ]
    if not both:
        return "–", ""
    alone, pooled = (math.fsum(values) / len(both) for values in zip(*both, strict=True))
    return f"{alone:.3f}", f"{(alone - 0.5) / (pooled - 0.5):.0%}" if pooled > 0.5 else ""


def _own_cell(results: Sequence[Result], own: Sequence[OfSource]) -> tuple[str, str]:
    """Return a source's own AUROC; withheld where a run has too few of a class in it."""
    if not own:
        return "–", ""
    if any(each.withheld for each in own):
        counts = sorted({each.melanomas for each in own})
        return "withheld", f"melanomas: {' to '.join(map(str, (counts[0], counts[-1])[: len(counts)]))}"
    return _interval_cell(results, [each.auroc for each in own])


def centre_table(found: Finding) -> Table:
    """Return the centres that the comparison names, and what there is of each."""
    rows = []
    for centre in found.centres:
        counts = (centre.images, centre.melanomas, centre.groups) if centre.sources else ("–",) * 3
        cells = (centre.name or "none of them", ", ".join(centre.sources) or "absent", *map(str, counts))
        rows.append(tuple((text, "") for text in cells))
    caption = f"Centres, and what the data hold of each. What no split takes apart: {found.data.groups_by}."
    return Table(caption, ("Centre", "Sources here", "Images", "Melanomas", "Kept together"), tuple(rows))


def paper_table(found: Finding) -> Table:
    """Return the paper's own figures beside those of the same families here."""
    rows = []
    for backbone in dict.fromkeys(r.cell.study.model.backbone for r in found.results if r.cell):
        known = published(backbone)
        if known is None:
            continue
        paper, substitute = known
        name = f"{backbone} (stands for {paper.family})" if substitute else f"{backbone} ({paper.family})"
        row: list[tuple[str, str]] = [(name, "")]
        for pretrained, theirs in ((False, paper.scratch), (True, paper.transfer)):
            results = _as_in_paper(found, backbone, pretrained)
            row += [metric_cell(results, metric) for metric in ("balanced_accuracy", "auroc", "auprc")]
            row += [(_plus_minus(value), "") for value in theirs] if theirs else [("–", ""), ("–", "")]
        rows.append(tuple(row))
    ours = ("Balanced accuracy", "AUROC", "AUPRC")
    columns = ("model.backbone", *(2 * (*ours, "Paper: “AUROC” (is balanced accuracy)", "Paper: AUPRC")))
    caption = (
        "Beside arXiv 2011.04475. Hold its “AUROC” against balanced accuracy: it was computed of rounded predictions. "
        "Its data are others (37,648 images, positives mostly of another archive than the negatives, divided by "
        "image), so neither column says what the other would have given."
    )
    return Table(caption, columns, tuple(rows), (("Without transfer learning", 5), ("With transfer learning", 5)))


def _as_in_paper(found: Finding, backbone: str, pretrained: bool) -> list[Result]:
    """Return the runs of a family as the paper has them: with age, sex and site, where the comparison has such runs."""
    cells = [r for r in found.results if r.cell and r.cell.study.model.backbone == backbone]
    fitting = [r for r in cells if r.cell and r.cell.study.model.pretrained == pretrained]
    with_metadata = [r for r in fitting if r.cell and r.cell.study.model.metadata]
    chosen = with_metadata or fitting
    return [r for r in chosen if r.configuration == chosen[0].configuration]


def _plus_minus(value: Value) -> str:
    return f"{value[0]:.3f} ± {value[1]:.3f}"


def cost_table(found: Finding) -> Table:
    """Return what each configuration costs: of its network, and of its runs in the mean."""
    rows = []
    for configuration, results in grouped(found.results).items():
        costs, runs = results[0].costs, [r.summary for r in results if r.summary]
        spent = [run.privacy.epsilon_spent for run in runs if run.privacy and run.privacy.epsilon_spent is not None]
        network = (
            (_millions(costs.parameters), _millions(costs.trained), f"{costs.flops / 1e9:.3f}", f"{costs.latency:.1f}")
            if costs
            else ("–",) * 4
        )
        seconds = _mean([run.seconds for run in runs], "{:.1f}".format)
        rounds = _mean([len(run.rounds) for run in runs], "{:.0f}".format)
        moved = _mean([sum(r.bytes_up + r.bytes_down for r in run.rounds) / 1e6 for run in runs], "{:.2f}".format)
        epsilon = f"{max(spent):.2f}" if spent else ("∞" if any(run.privacy for run in runs) else "–")
        cells = (label(configuration), *network, rounds, seconds, moved, epsilon)
        rows.append(tuple((cell, "") for cell in cells))
    columns = (
        "Configuration",
        "Parameters, M",
        "Trained, M",
        "GFLOP an image",
        "ms an image",
        "Rounds",
        "Seconds a run",
    )
    caption = (
        "What it costs. Floating-point operations of one image's forward pass (a multiplication and an addition are "
        "two); milliseconds of one image alone on one CPU thread, median; seconds with a share of the machine, so not "
        "those of a run by itself; ε spent: the most of any clinic."
    )
    return Table(caption, (*columns, "MB moved", "ε spent"), tuple(rows))


def grouped(results: Sequence[Result]) -> dict[Configuration, list[Result]]:
    """Return results by configuration."""
    found: dict[Configuration, list[Result]] = {}
    for result in results:
        found.setdefault(result.configuration, []).append(result)
    return found


def _mean(values: Sequence[float], form: Callable[[float], str]) -> str:
    return form(math.fsum(values) / len(values)) if values else "–"


def _millions(number: int) -> str:
    return f"{number / 1e6:.3f}" if number >= 10_000 else f"{number / 1e6:.6f}"


def best_of(found: Finding) -> Configuration | None:
    """Return the configuration with the largest mean AUROC on the test part."""
    means = {}
    for configuration, results in grouped(found.results).items():
        values = [r.metrics.auroc.value for r in results if r.metrics and r.metrics.auroc.value is not None]
        if values:
            means[configuration] = math.fsum(values) / len(values)
    return max(means, key=means.__getitem__, default=None)


def pair_table(found: Finding) -> Table:
    """Return the comparisons that a page has room for: those with the best first, then by their p values."""
    best = best_of(found)

    def order(pair: Pair) -> tuple[bool, str, float]:
        return (best not in (pair.first, pair.second), pair.metric, pair.difference.p)

    pairs = sorted(found.compared.pairs, key=order)[:LISTED_PAIRS]
    rows = tuple(tuple((text, "") for text in pair_cells(pair)) for pair in pairs)
    more = len(found.compared.pairs) - len(pairs)
    caption = "Pairs on the same test patients; p after Holm's correction over all pairs of the metric."
    if more:
        caption += f" {more} more are in comparisons.csv."
    columns = ("First", "Second", "Metric", "Runs", "First less second", "95 % interval", "p", "p, corrected")
    return Table(caption, (*columns, "Method", "Difference"), rows)


def pair_cells(pair: Pair) -> tuple[str, ...]:
    """Return a comparison as text."""
    d = pair.difference
    interval = f"{d.low:+.3f} to {d.high:+.3f}"
    verdict = "shown" if pair.shown else "none shown"
    numbers = (str(pair.runs), f"{d.value:+.3f}", interval, f"{d.p:.2g}", f"{pair.adjusted:.2g}")
    return (label(pair.first), label(pair.second), PAIRED[pair.metric], *numbers, d.method, verdict)


def _failures(found: Finding) -> Table:
    rows = tuple(((r.name, ""), (r.status, ""), (r.reason, "")) for r in found.failed)
    return Table("Cells without a result; none was trained in another way instead.", ("Cell", "What", "Why"), rows)
