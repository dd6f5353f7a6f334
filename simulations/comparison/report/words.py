"""What the report of a comparison says beside its numbers."""

from melfed.server.report.words import SYNTHETIC, count, counted, duration
from melfed.simulations.comparison.finding import Finding
from melfed.simulations.comparison.grid import label
from melfed.simulations.comparison.report.paper import NAME
from melfed.simulations.comparison.report.tables import PAIRED, best_of, grouped
from melfed.simulations.comparison.statistics.differences import ENOUGH, REPLICATES

Point = tuple[str, str]


def points(found: Finding) -> list[Point]:
    """Return the statements of a report, each with its title."""
    made = [_chosen(found), _differences(found), _intervals(), _tests(found), _size_and_time()]
    if found.comparison.published == NAME:
        made += _paper()
    if any(result.by_source for result in found.results):
        made.append(_sources(found))
    if found.centres:
        made.append(_centres(found))
    if any(result.status == "start" for result in found.results):
        made.append(("The start", _START))
    if any(result.cell and result.cell.study.privacy for result in found.results):
        made.append(("Private runs", _PRIVATE))
    if found.data.synthetic:
        made.append(("Synthetic images", f"{SYNTHETIC}."))
    made.append(_timing(found))
    return made


def lead(found: Finding) -> str:
    """Return in a sentence what was compared on what."""
    cells = counted(sum(result.cell is not None for result in found.results), "cell", "cells")
    configurations = counted(len(grouped(found.results)), "configuration", "configurations")
    data, with_scores = found.data, next((r for r in found.results if r.metrics), None)
    test = (
        f"{count(with_scores.metrics.images)} test images" if with_scores and with_scores.metrics else "no test image"
    )
    melanomas = with_scores.metrics.melanomas if with_scores and with_scores.metrics else 0
    of_data = "" if data.images is None else f" of {counted(data.images, 'image', 'images')} in {data.folder}"
    return f"{cells} of {configurations}; {test} with {counted(melanomas, 'melanoma', 'melanomas')}{of_data}."


_START = (
    "“start” is the public warm start that runs begin at, unchanged, on the same test patients: what training on the "
    "clinics' images adds is the difference to it."
)
_PRIVATE = (
    "Their test parts are scored here exactly, as a researcher can whose images they are; the run's own report has "
    "what its study releases. The scores of single images (predictions.parquet in the cells' folders) are not "
    "protected: do not pass these folders on."
)


def _chosen(found: Finding) -> Point:
    best, number = best_of(found), len(grouped(found.results))
    if best is None:
        return "Chosen on the test part", "Nothing was: no cell has a result."
    text = (
        f"Nothing was chosen before the test part was scored: all {number} configurations stand in the table. Who "
        f"takes the best of them ({label(best)}) chooses on the test part, and its value there is flattering"
    )
    if found.compared.optimism is not None and number > 1:
        text += f", by about {max(0.0, found.compared.optimism):.3f} of AUROC (bootstrap over patients)"
    return "Chosen on the test part", f"{text}. A figure for use needs other patients."


def _differences(found: Finding) -> Point:
    compared = found.compared
    if not compared.pairs:
        why = compared.few or "there are no two configurations on the same test patients"
        return "Which differences are none", f"Nothing is compared: {why}."
    parts = []
    for metric, name in PAIRED.items():
        pairs = [pair for pair in compared.pairs if pair.metric == metric]
        if not pairs:
            continue
        shown = sum(pair.shown for pair in pairs)
        parts.append(f"{name}: of {len(pairs)} pairs, {shown} differ and {len(pairs) - shown} are not told apart")
    best = best_of(found)
    level = [p for p in compared.pairs if p.metric == "auroc" and best in (p.first, p.second) and not p.shown]
    names = [label(pair.second if pair.first == best else pair.first) for pair in level]
    text = "; ".join(parts) + " (5 % over all pairs together)."
    if best is not None:
        text += f" Not told apart from the best, {label(best)}: {'; '.join(names) if names else 'none'}."
    if compared.apart:
        text += f" {compared.apart} pairs have no run on the same test patients and are not compared."
    return "Which differences are none", f"{text} Not told apart does not mean equal: see the intervals."


def _intervals() -> Point:
    return "Intervals", (
        "Over several seeds: the mean and the 95 % t interval of the mean, which says how training and division by "
        "other seeds would vary, and not how other patients would. Of one seed: the 95 % interval over patients of "
        "that one model. Metrics are exact, of the scores of all test images pooled."
    )


def _tests(found: Finding) -> Point:
    text = (
        f"AUROC: DeLong's test, by patient (Obuchowski), where at least {ENOUGH} patients have a melanoma and {ENOUGH} "
        f"another image; else, and for AUPRC, the bootstrap over patients ({REPLICATES} replicates), whose spread "
        "is the standard error. AUROC within sources by DeLong's test alone. With several seeds their spread is added. "
        "Equal models have p = 1. Holm's correction is over all pairs of a metric. "
    )
    ranking = found.ranking
    if ranking.ranks is None:
        return "Tests", f"{text}No critical-difference diagram: {ranking.blocks}."
    return "Tests", (
        f"{text}Mean ranks are over {ranking.ranks.blocks} {ranking.blocks} (Friedman p = {ranking.ranks.p:.2g}; "
        f"Nemenyi's critical difference {ranking.ranks.critical:.2f} at 5 %)."
    )


def _size_and_time() -> Point:
    return "Size and time", (
        "Time is of the network alone, one image at a time on one thread of this machine's CPU; on a GPU, or with many "
        "images at once, families rank otherwise."
    )


def _paper() -> list[Point]:
    return [
        (
            "The paper's “AUROC”",
            "arXiv 2011.04475 computed it of rounded predictions, which makes it balanced accuracy at 0.5. Both "
            "quantities of ours are shown: hold the paper's against balanced accuracy, and never against AUROC.",
        ),
        (
            "The paper's data",
            "89 % of its positives come from an archive that supplies no negatives, so a network may tell archives "
            "apart instead of lesions; and it divided images, not patients, so images of one patient can be on both "
            "sides. Here patients (else lesions) are divided.",
        ),
        (
            "Otherwise than the paper",
            "With transfer, normalisation keeps ImageNet's statistics; without, BatchNorm is replaced by GroupNorm. A "
            "family that is marked as standing for another is a substitute, whose weights were at hand.",
        ),
    ]


def _sources(found: Finding) -> Point:
    alone = [r.by_source.alone for r in found.results if r.by_source and r.by_source.alone is not None]
    text = (
        "The pooled AUROC counts pairs of two sources too, and sources differ in prevalence, camera and preparation. "
        "Whoever knows an image's source and nothing of its lesion"
    )
    if alone:
        low, high = f"{min(alone):.3f}", f"{max(alone):.3f}"
        text += f" can have a pooled AUROC of {low if low == high else f'{low} to {high}'} on these test parts, and"
    return "Telling sources apart", (
        f"{text} has exactly 0.5 within sources. Hold configurations against each other by the AUROC within sources, "
        "which is of lesions alone. A `local` run has a model a clinic, each of which has learnt its clinic's "
        "prevalence, so that its pooled AUROC has that from the start."
    )


def _centres(found: Finding) -> Point:
    absent = [centre.name for centre in found.centres if not centre.sources]
    others = [source for centre in found.centres if not centre.name for source in centre.sources]
    here = len([centre for centre in found.centres if centre.name]) - len(absent)
    text = f"{here} of {len(found.comparison.centres)} centres are in the data"
    text += f"; absent: {', '.join(absent)}. Nothing here is said of these." if absent else "."
    if others:
        text += f" Part of the data, and no such centre: {', '.join(others)}."
    return "Centres", text


def _timing(found: Finding) -> Point:
    timing = found.timing
    if not timing.run:
        return "Time", "All cells had finished before."
    each = f"{timing.run} cell{'s' if timing.run > 1 else ''} took {duration(timing.cells)} one after the other"
    return "Time", f"{each}, {timing.at_a_time} at a time; the whole command {duration(timing.whole)} until here."
