"""The report of a finished run: `report.html`, one page to read, print, mail and keep.

What the page promises:

- It is one file that loads nothing: figures are inline SVG, and a content security policy forbids scripts, pictures and
  the network. It opens from a disk without internet access, today and in ten years.
- Every number in it comes from the run folder; a metric that the data cannot support is called undefined, with the
  reason, and is never a number.
- Results stand with their 95 % interval and with what chance would reach. Synthetic images are announced above them.
- All names, reasons and paths are escaped: a clinic cannot put markup on the page.
- The same run folder gives the same page, byte for byte: it has no date and no random ids.

The page's markup is in `templates/`, a file a section; what it says is in the modules of words, which it calls.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from melfed.common.errors import DataError, RunError
from melfed.common.files import write_text
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy import share_called
from melfed.common.metrics.noisy_histogram import Histogram, histogram_from_lists, pooled
from melfed.common.metrics.score_bins import MOST_BINS
from melfed.common.metrics.score_edges import SCORE_BINS
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import StudyProtocol
from melfed.server.report import (
    brought,
    calibration,
    charts,
    count_words,
    figures,
    ladder,
    privacy,
    privacy_words,
    steps,
    subgroups,
    words,
)
from melfed.server.report.clinicians import clinicians_figure
from melfed.server.report.decision import decision_figure
from melfed.server.report.words import capital, count, noised_unit, plural
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import AT_CLINICS, Rung, RunSummary

LISTED_IMAGES = 200
LISTED_ROUNDS = 200
_REASONS = {"failed": "Did not answer, and why", "declined": "Declined, and why"}
_SECTIONS = {
    "result": "Result",
    "curves": "Curves",
    "calibration": "Calibration",
    "privacy": "Privacy",
    "clinics": "Clinics",
    "brought": "What the federation brought",
    "subgroups": "Subgroups",
    "training": "Training",
    "data": "Data",
    "study": "Study",
    "meaning": "What the numbers mean",
}


def write_report(folder: RunFolder) -> Path:
    """Write a finished run's `report.html` and return its path.

    Raises:
        RunError: the run has not finished, or its files contradict each other.
        StorageError: the page cannot be written; an earlier one stays whole.
    """
    summary, study = folder.summary(), folder.study()
    if not folder.made_by(summary.study.digest, study):
        raise RunError(f"{folder.path}: summary.json is of study {summary.study.digest[:12]}, not {study.digest[:12]}")
    write_text(folder.report, page(summary, study, scores_by_clinic(folder), folder.ladder()))
    return folder.report


def page(
    summary: RunSummary, study: StudyProtocol, test: Mapping[str, Histogram], measured: Sequence[Rung] = ()
) -> str:
    """Return the page.

    Args:
        summary: of the run.
        study: that was run.
        test: each clinic's test scores, from which the pooled curves are drawn.
        measured: other ways to a model, for the ladder of a private study.
    """
    template = templates().get_template("page.html")
    some: dict[str, object] = {
        "privacy": summary.privacy,
        "subgroups": summary.subgroups,
        "brought": brought.gains(summary),
    }
    titles = _SECTIONS | {"calibration": calibration.title(summary) or ""}
    return template.render(
        summary=summary,
        study=study,
        unit=noised_unit(summary),
        sections={name: told for name, told in titles.items() if told and some.get(name, True)},
        figures=_figures(summary, test),
        clinics=_clinic_table(summary),
        rounds=_round_table(summary, study),
        ladder=ladder.table(summary, study, measured) if summary.privacy and summary.public else None,
        deployed=summary.data.layout == AT_CLINICS,
        at_half=words.at_half(summary.test, share_called(pooled(test.values()))),
        listed_images=LISTED_IMAGES,
    )


@functools.cache
def templates() -> Environment:
    """Return the templates, compiled once a process; what is no markup is escaped, and an unknown name is an error."""
    found = Environment(
        loader=PackageLoader("melfed.server.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {"words": words, "count_words": count_words, "privacy": privacy, "privacy_words": privacy_words}
    found.globals |= {"subgroups": subgroups, "brought": brought, "calibration": calibration}
    found.globals |= {"steps": steps, "study_yaml": study_yaml, "most_bins": MOST_BINS, "score_bins": SCORE_BINS}
    return found


def scores_by_clinic(folder: RunFolder) -> dict[str, Histogram]:
    """Return the histogram of every clinic's test scores. Raises RunError where one is damaged."""
    study = folder.study()
    noised = study.privacy is not None and study.privacy.evaluation == "noised"
    scores: dict[str, Histogram] = {}
    for event in folder.events():
        if event["event"] == "test":
            place = f"{folder.path}/metrics.jsonl: test scores of {event['clinic']!r}"
            try:
                found = histogram_from_lists(event["histogram"])
            except DataError as error:
                raise RunError(f"{place}: {error}") from None
            if isinstance(found, ScoreHistogram) == noised:
                raise RunError(
                    f"{place}: {'without' if noised else 'with'} noise, against the study; the run is damaged"
                )
            scores[str(event["clinic"])] = found
    return scores


def _figures(summary: RunSummary, test: Mapping[str, Histogram]) -> dict[str, list[figures.Figure]]:
    """Return each section's figures."""
    unit, scores = noised_unit(summary), pooled(test.values())
    with charts.settings():
        training, curves = [], []
        if _has_losses(summary):
            training.append(figures.loss_figure(summary.rounds))
        if summary.rounds:
            training.append(figures.validation_figure(summary.rounds))
        if test or not summary.test.images:
            curves += [figures.roc_figure(scores, summary.test, unit), figures.pr_figure(scores, summary.test, unit)]
            curves.append(figures.scores_figure(scores, summary.test, unit))
            curves.append(decision_figure(scores, summary.test, unit))
            curves.append(clinicians_figure(summary.test, summary.data.synthetic, unit))
        calibrated = calibration.figures(scores, summary, unit) if test else []
        forest = figures.forest(summary.clinics, summary.test, unit)
    return {"clinics": [forest], "training": training, "curves": curves, "calibration": calibrated}


def _clinic_table(summary: RunSummary) -> dict[str, Any]:
    """Return caption, headings and rows of the table of clinics, the last row of all pooled."""
    local, unit, told = summary.mode == "local", noised_unit(summary), count_words.told_unit(summary)
    with_groups = told is not None or summary.data.groups_by != "image"
    groups = [capital(plural(summary.data.groups_by))] if with_groups else []
    whole = [*groups, "Images", "Melanomas"] if told is None else [*count_words.headings(told)]
    test = ["Images", "Melanomas"] if unit is None else [*count_words.headings(unit)]
    test += ["AUROC", "AUPRC"]
    everywhere = ["AUROC", "AUPRC"] if local else []
    caption = f"Each clinic and all pooled; below a value its 95 % interval. {count_words.told(summary)}".strip()
    if local:
        caption += " Test part: the clinic's own model on its own test images. Everywhere: on those of all clinics."
    rows = [
        {
            "name": clinic.name,
            "counts": [clinic.patients if with_groups else None, clinic.images, clinic.melanomas],
            "about": count_words.is_about([clinic]),
            "test": clinic.test,
            "everywhere": clinic.everywhere,
        }
        for clinic in summary.clinics
    ]
    sums = [
        sum(known) if (known := [number for number in column if number is not None]) else None
        for column in zip(*(row["counts"] for row in rows), strict=True)
    ]
    about = count_words.is_about(summary.clinics)
    if about or unit is not None:
        caption += f" {count_words.ABOUT}: not exact."
    return {
        "caption": caption,
        "spans": [
            (capital(count_words.scope(summary)), len(whole)),
            ("Test part", len(test)),
            *([("Everywhere", 2)] if local else []),
        ],
        "columns": ["Clinic", *whole, *test, *everywhere],
        "rows": [*rows, {"name": "All pooled", "counts": sums, "about": about, "test": summary.test}],
    }


def _has_losses(summary: RunSummary) -> bool:
    return any(row.train_loss is not None for row in summary.rounds)


def _round_table(summary: RunSummary, study: StudyProtocol) -> dict[str, Any]:
    """Return caption, headings and rows of the table of rounds; `reasons` are the columns of words."""
    federated, losses = summary.mode in {"federated", "one_round"}, _has_losses(summary)
    declined = any(row.declined for row in summary.rounds)
    reasons = {kind: title for kind, title in _REASONS.items() if federated and (kind == "failed" or declined)}
    names = ["Round", *(["Training loss"] if losses else []), "Validation AUROC", "Validation AUPRC", "Seconds"]
    told = f"{'loss, ' if losses else ''}validation and time"
    caption = f"Rounds: {words.traffic(summary.rounds, study) if federated else told}."
    if len(summary.rounds) > LISTED_ROUNDS:
        caption += f" The last {LISTED_ROUNDS} of {count(len(summary.rounds))}; all are in summary.json."
    return {
        "caption": caption,
        "columns": [*names, *(["MB up", "MB down", "Answered"] if federated else []), *reasons.values()],
        "losses": losses,
        "reasons": reasons,
        "rows": summary.rounds[-LISTED_ROUNDS:],
    }
