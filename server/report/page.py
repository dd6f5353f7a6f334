"""The report of a finished run: `report.html`, one page to read, print, mail and keep.

What the page promises:

- It is one file that loads nothing: figures are inline SVG, and a content security policy forbids scripts, pictures and
  the network. It opens from a disk without internet access, today and in ten years.
- Every number in it comes from the run folder; a metric that the data cannot support is called undefined, with the
  reason, and is never a number.
- Results stand with their 95 % interval and with what chance would reach. Synthetic images are announced above them.
- All names, reasons and paths are escaped: a clinic cannot put markup on the page.
- The same run folder gives the same page, byte for byte: it has no date and no random ids.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from melfed.common.errors import DataError, RunError
from melfed.common.files import write_text
from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import Histogram, histogram_from_lists, pooled
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import StudyProtocol
from melfed.server.report import count_words, figures
from melfed.server.report import steps as report_steps
from melfed.server.report import words as report_words
from melfed.server.report.markup import Markup, element, join
from melfed.server.report.parts import columns, facts, notice, panel, table
from melfed.server.report.privacy import privacy_notice, privacy_section
from melfed.server.report.style import STYLE
from melfed.server.report.words import (
    capital,
    count,
    counted,
    duration,
    hint,
    initial_weights,
    limits_of,
    megabytes,
    noised_unit,
    plural,
    value_of,
)
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import AT_CLINICS, ClinicSummary, RoundSummary, RunSummary

LISTED_IMAGES = 200
LISTED_ROUNDS = 200
ABSENT, DECLINED = "Did not answer, and why", "Declined, and why"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_SECTIONS = {
    "result": "Result",
    "privacy": "Privacy",
    "clinics": "Clinics",
    "training": "Training",
    "curves": "Curves",
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
    write_text(folder.report, page(summary, study, _test_scores(folder, study)))
    return folder.report


def page(summary: RunSummary, study: StudyProtocol, test: Mapping[str, Histogram]) -> str:
    """Return the page; `test` holds each clinic's test scores, from which the pooled curves are drawn."""
    title = f"{summary.study.name}: melfed report"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"melfed {summary.melfed}"),
        element("title", f"{title} (synthetic images)" if summary.data.synthetic else title),
        element("style", Markup(STYLE)),
    )
    content = {
        "result": [_cards(summary)],
        "privacy": _privacy(summary, study),
        "clinics": [
            _clinic_table(summary),
            figures.forest(summary.clinics, summary.test, noised_unit(summary)),
        ],
        "training": _training(summary, study),
        "curves": [_curves_note(summary), _curves(summary, test)],
        "data": _data(summary, study),
        "study": _study(summary, study),
        "meaning": [_meaning(summary, study)],
    }
    shown = [name for name, parts in content.items() if parts]
    sections = [_section(name, *content[name]) for name in shown]
    body = element("body", _header(summary, shown), element("main", *sections), _footer(summary))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _test_scores(folder: RunFolder, study: StudyProtocol) -> dict[str, Histogram]:
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


def _section(name: str, *content: Markup) -> Markup:
    heading = element("h2", _SECTIONS[name], id=f"{name}-title")
    return element("section", heading, *content, id=name, aria_labelledby=f"{name}-title")


def _header(summary: RunSummary, sections: Sequence[str]) -> Markup:
    links = [element("li", element("a", _SECTIONS[name], href=f"#{name}")) for name in sections]
    rounds = counted(len(summary.rounds), "round", "rounds")
    clinics = counted(len(summary.clinics), "clinic", "clinics")
    return element(
        "header",
        element("p", "melfed report", class_="kind"),
        element("h1", element("bdi", summary.study.name)),
        element("p", f"{report_words.MODES[summary.mode]}. {capital(clinics)}, {rounds}.", class_="lead"),
        notice(report_words.SYNTHETIC, warning=True) if summary.data.synthetic else "",
        *(notice(f"Warning: {line}.", warning=True) for line in summary.warnings),
        privacy_notice(summary.privacy) if summary.privacy else "",
        notice(report_words.NOTICE),
        element("nav", element("ul", *links), aria_label="Sections"),
    )


def _footer(summary: RunSummary) -> Markup:
    words = f"Made by melfed {summary.melfed}. {report_words.NOTICE}"
    return element("footer", f"{words} {report_words.SYNTHETIC}." if summary.data.synthetic else words)


def _privacy(summary: RunSummary, study: StudyProtocol) -> list[Markup]:
    if summary.privacy is None or study.privacy is None:
        return []
    return privacy_section(summary, summary.privacy, study.privacy)


def _cards(summary: RunSummary) -> Markup:
    test, unit = summary.test, noised_unit(summary)
    share = report_words.prevalence(test)
    chance = "" if not share else f" Guessing reaches {share:.3f}, the share of melanomas."
    auroc = "How often a melanoma gets a higher score than another image, taking one of each. Guessing reaches 0.5."
    auprc = f"The share of real melanomas among the images called melanoma, averaged over all sensitivities.{chance}"
    balanced = "The mean of sensitivity and specificity when a score of 0.5 or more is called melanoma. Guessing: 0.5."
    reason = hint(test, unit=unit)
    title, images = _test_size(summary, unit)
    note = f" Mind: {reason}." if reason else ""
    counts = element(
        "div",
        element("h3", title),
        element("p", count(test.melanomas), class_="big"),
        element("p", images, class_="limits"),
        element("p", f"All clinics' test parts together, never seen in training.{note}", class_="soft"),
        class_="card",
    )
    cards = [
        _card("AUROC, all clinics pooled", test.auroc, 0.5, auroc, reason),
        _card("AUPRC, all clinics pooled", test.auprc, share, auprc, reason),
        _card("Balanced accuracy at 0.5", test.balanced_accuracy, 0.5, balanced, reason),
        counts,
    ]
    return join([element("div", *cards, class_="cards"), _operating_points(test)])


def _test_size(summary: RunSummary, unit: str | None) -> tuple[str, str]:
    """Return what the test part's melanomas are, and what they are among."""
    test = summary.test
    if unit is not None:
        units = plural(unit)
        title = "Melanomas in test" if unit == "image" else f"{capital(units)} with melanoma in test"
        return title, f"in about {count(test.images)} {units}, estimated from noisy counts"
    groups_by = report_words.exact_groups(summary)
    of_groups = f" of {count(test.patients)} {plural(groups_by)}"
    images = counted(test.images, "test image", "test images")
    return "Melanomas in test", f"in {images}{'' if groups_by == 'image' else of_groups}"


def _card(title: str, interval: Interval, chance: float | None, words: str, reason: str | None) -> Markup:
    limits = limits_of(interval)
    return element(
        "div",
        element("h3", title),
        element("p", value_of(interval), class_="big" if limits else "big undefined"),
        element("p", f"95 % interval {limits}" if limits else f"Because: {reason}.", class_="limits"),
        figures.gauge(interval, chance),
        element("p", words, class_="soft"),
        class_="card",
    )


def _operating_points(test: EvaluationMetrics) -> Markup:
    known = []
    for specificity in (90, 95):
        interval: Interval = getattr(test, f"sensitivity_at_{specificity}_specificity")
        threshold: float | None = getattr(test, f"threshold_at_{specificity}_specificity")
        at = f"; a score of {threshold:.3g} or more is called melanoma" if threshold is not None else ""
        known.append((f"Sensitivity at {specificity} % specificity", f"{report_words.spoken(interval)}{at}"))
    if test.brier is not None and test.ece is not None:
        known.append(("Calibration", f"Brier score {test.brier:.3f}, expected calibration error {test.ece:.3f}"))
    return panel(facts(known), below=True)


def _clinic_table(summary: RunSummary) -> Markup:
    local, unit, told = summary.mode == "local", noised_unit(summary), count_words.told_unit(summary)
    with_groups = told is not None or summary.data.groups_by != "image"
    groups = [capital(plural(summary.data.groups_by))] if with_groups else []
    whole = [*groups, "Images", "Melanomas"] if told is None else [*count_words.told_headings(summary, told)]
    counts = ["Images", "Melanomas"] if unit is None else [*count_words.headings(unit, noised=True)]
    test = [*counts, "AUROC", "AUPRC"]
    everywhere = ["AUROC", "AUPRC"] if local else []
    scope = capital(count_words.scope(summary))
    spans = [(scope, len(whole)), ("Test part", len(test)), *([("Everywhere", 2)] if local else [])]
    over = [element("th", name, colspan=span, scope="colgroup") for name, span in spans]
    head = join([element("tr", element("td", ""), *over), columns("Clinic", *whole, *test, *everywhere)])
    rows = [_clinic_row(clinic, with_groups, local, unit) for clinic in summary.clinics]
    patients = sum(clinic.patients for clinic in summary.clinics)
    melanomas = sum(clinic.melanomas for clinic in summary.clinics)
    images = [clinic.images for clinic in summary.clinics if clinic.images is not None]
    cells = _count_cells(patients if with_groups else None, sum(images) if images else None, melanomas)
    absent = [element("td", "–")] * len(everywhere)
    first = element("th", "All pooled", scope="row")
    total = element("tr", first, *cells, *_test_cells(summary.test, unit), *absent, class_="total")
    caption = f"Each clinic and all pooled; below a value its 95 % interval. {count_words.told(summary)}".strip()
    if local:
        caption += " Test part: the clinic's own model on its own test images. Everywhere: on those of all clinics."
    return table(caption, head, [*rows, total])


def _clinic_row(clinic: ClinicSummary, with_groups: bool, local: bool, unit: str | None) -> Markup:
    cells = _count_cells(clinic.patients if with_groups else None, clinic.images, clinic.melanomas)
    name = element("th", element("bdi", clinic.name), scope="row")
    everywhere: list[Markup] = []
    if local:
        reason = hint(clinic.everywhere) if clinic.everywhere else "not evaluated"
        found = clinic.everywhere
        everywhere = [_metric_cell(found.auroc if found else Interval(), reason)]
        everywhere.append(_metric_cell(found.auprc if found else Interval(), reason))
    return element("tr", name, *cells, *_test_cells(clinic.test, unit), *everywhere)


def _count_cells(patients: int | None, images: int | None, melanomas: int) -> list[Markup]:
    return [element("td", count(value)) for value in (patients, images, melanomas) if value is not None]


def _test_cells(test: EvaluationMetrics, unit: str | None) -> list[Markup]:
    reason = hint(test, unit=unit)
    metrics = [_metric_cell(test.auroc, reason), _metric_cell(test.auprc, reason)]
    return [*_count_cells(None, test.images, test.melanomas), *metrics]


def _metric_cell(interval: Interval, reason: str | None) -> Markup:
    limits = limits_of(interval)
    why = element("small", reason, class_="hint") if reason else ""
    if not limits:
        return element("td", element("span", "undefined", class_="undefined"), why)
    return element("td", value_of(interval), element("small", limits.replace(" to ", "–")), why)


def _training(summary: RunSummary, study: StudyProtocol) -> list[Markup]:
    if not summary.rounds:
        return [element("p", "No round is on record.")]
    drawn = [figures.validation_figure(summary.rounds)]
    if _has_losses(summary):
        drawn.insert(0, figures.loss_figure(summary.rounds))
    steps = report_steps.steps(summary, study)
    told = [panel(facts(steps), below=True)] if steps else []
    return [element("div", *drawn, class_="figures"), *told, _round_table(summary)]


def _has_losses(summary: RunSummary) -> bool:
    return any(row.train_loss is not None for row in summary.rounds)


def _round_table(summary: RunSummary) -> Markup:
    federated, losses, unit = summary.mode == "federated", _has_losses(summary), noised_unit(summary)
    declined = any(row.declined for row in summary.rounds)
    names = ["Round", *(["Training loss"] if losses else []), "Validation AUROC", "Validation AUPRC", "Seconds"]
    if federated:
        names += ["MB up", "MB down", "Answered", ABSENT, *([DECLINED] if declined else [])]
    rows = [_round_row(row, federated, losses, declined, unit) for row in summary.rounds[-LISTED_ROUNDS:]]
    told = f"{'loss, ' if losses else ''}validation and time"
    caption = f"Rounds: {report_words.traffic(summary.rounds) if federated else told}."
    if len(summary.rounds) > LISTED_ROUNDS:
        caption += f" The last {LISTED_ROUNDS} of {count(len(summary.rounds))}; all are in summary.json."
    return element("div", table(caption, columns(*names, words=(ABSENT, DECLINED)), rows), class_="below")


def _round_row(row: RoundSummary, federated: bool, losses: bool, declined: bool, unit: str | None) -> Markup:
    reason = hint(row.validation, "validation", unit) if row.validation else "not evaluated"
    auroc, auprc = (row.validation.auroc, row.validation.auprc) if row.validation else (Interval(), Interval())
    cells = [_metric_cell(auroc, reason), _metric_cell(auprc, None), element("td", f"{row.seconds:.1f}")]
    if losses:
        cells.insert(0, element("td", "–" if row.train_loss is None else f"{row.train_loss:.4f}"))
    if federated:
        asked = len(row.answered) + len(row.failed) + len(row.declined)
        cells += [element("td", megabytes(size)) for size in (row.bytes_up, row.bytes_down)]
        cells.append(element("td", f"{len(row.answered)} of {asked}"))
        cells += [_reasons(reasons) for reasons in ([row.failed, row.declined] if declined else [row.failed])]
    return element("tr", element("th", str(row.round), scope="row"), *cells)


def _reasons(reasons: Mapping[str, str]) -> Markup:
    named = join(element("div", element("bdi", name), ": ", why) for name, why in sorted(reasons.items()))
    return element("td", named or "–", class_="words")


def _curves_note(summary: RunSummary) -> Markup:
    words = f"All on the test images of {counted(len(summary.clinics), 'clinic', 'clinics')}, pooled."
    if summary.mode == "local":
        words += " Here they mix the scores of different models, one a clinic, each on its own clinic's test part."
    unit = noised_unit(summary)
    if unit is not None:
        words += (
            f" They are of smooth densities, fitted to noisy counts in which every {unit} has about the same weight. "
            "Calibration is not drawn, as noised histograms do not hold it."
        )
    return element("p", words, class_="soft")


def _curves(summary: RunSummary, test: Mapping[str, Histogram]) -> Markup:
    if not test and summary.test.images:
        return element("p", "Not drawn: metrics.jsonl holds no test scores.", class_="undefined")
    scores, unit = pooled(test.values()), noised_unit(summary)
    drawn = [figures.roc_figure(scores, summary.test, unit), figures.pr_figure(scores, summary.test, unit)]
    if isinstance(scores, ScoreHistogram):
        drawn.append(figures.calibration_figure(scores, summary.test))
    return element("div", *drawn, figures.scores_figure(scores, summary.test, unit), class_="figures")


def _data(summary: RunSummary, study: StudyProtocol) -> list[Markup]:
    data = summary.data
    deployed = data.layout == AT_CLINICS
    where = [("Where", f"{data.folder}: {report_words.STAYED}")]
    left_out = counted(len(data.left_out), "image", "images") if data.left_out else "no image"
    known = [
        *(where if deployed else [("Folder", data.folder), ("Layout", data.layout)]),
        ("Told by the clinics" if deployed else "Used", _amounts(summary)),
        ("Counted as melanoma", ", ".join(study.data.positive)),
        ("Splits", report_words.splits_by(summary)),
        ("Left out", report_words.LEFT_OUT_THERE if deployed else left_out),
    ]
    if summary.privacy:
        known.append(("Protection", count_words.told(summary) if deployed else report_words.DATA_UNPROTECTED))
    if data.synthetic:
        known.insert(0, ("Images", f"{report_words.SYNTHETIC}."))
    content = [panel(facts(known))]
    if data.left_out:
        content.append(_left_out(summary))
    return content


def _amounts(summary: RunSummary) -> str:
    """Return how much data there is, as far as it is known."""
    if told := count_words.of_data(summary):
        return told
    data = summary.data
    parts = [counted(data.melanomas, "melanoma", "melanomas")]
    if data.images is not None:
        parts.insert(0, f"{count(data.images)} images")
    if data.groups_by != "image":
        parts.append(f"{count(data.groups)} {plural(data.groups_by)}")
    return ", ".join(parts)


def _left_out(summary: RunSummary) -> Markup:
    left_out = summary.data.left_out
    rows = []
    for item in left_out[:LISTED_IMAGES]:
        name = element("th", element("code", item.image), scope="row")
        rows.append(element("tr", name, element("td", item.reason, class_="words")))
    caption = "Images that could not be used, and why."
    if len(left_out) > LISTED_IMAGES:
        caption += f" The first {LISTED_IMAGES}; {count(len(left_out) - LISTED_IMAGES)} more are in summary.json."
    head = element("tr", element("th", "Image", scope="col"), element("th", "Reason", scope="col", class_="words"))
    return element("div", table(caption, head, rows), class_="below")


def _study(summary: RunSummary, study: StudyProtocol) -> list[Markup]:
    known = [
        ("Name", summary.study.name),
        ("Digest (SHA-256)", summary.study.digest),
        ("Mode", f"{report_words.MODES[summary.mode]}."),
        *((("Initial weights", initial_weights(summary.public)),) if summary.public else ()),
        ("Device", summary.device),
        ("Time", duration(summary.seconds)),
        *((("Without effect", idle),) if (idle := report_steps.idle(study)) else ()),
        ("Versions", ", ".join(f"{name} {version}" for name, version in summary.versions.items())),
    ]
    yaml = element("pre", element("code", study_yaml(study)), tabindex=0, role="region", aria_label="Study as YAML")
    details = element("details", element("summary", "The whole study (study.yaml)"), yaml)
    return [panel(facts(known)), details]


def _meaning(summary: RunSummary, study: StudyProtocol) -> Markup:
    points = [
        element("div", element("dt", title), element("dd", text))
        for title, text in report_words.meanings(summary, study)
    ]
    return element("dl", *points, class_="meaning panel")
