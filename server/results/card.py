"""The model card of a finished run, `model-card.json` and `model-card.md`: what a review board files of a model.

Every word of it follows from the run's folder, and the same folder gives the same card.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from melfed.common.export.facts import ACCOUNTANT, NOT_CALIBRATED, ModelFacts
from melfed.common.files import write_text
from melfed.common.metrics.intervals import Interval
from melfed.common.metrics.subgroups import MEASURES
from melfed.server.report import brought, subgroups
from melfed.server.results.facts import facts_by
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import RunSummary

NAMES: Final = ("model-card.json", "model-card.md")
NOT_FOR: Final = (
    "diagnosis, triage, or any decision about a patient",
    "pictures of another kind than the study took (data.image_type), of other cameras, or without a lesion",
    "groups of patients, skin types or sites of the body on which nobody has evaluated it",
)
_CALIBRATION: Final = {
    "brier": "Brier score (0 is best)",
    "slope": "slope (1 is best)",
    "in_the_large": "in the large (0 is best; below it, too high)",
    "calibration_error": "calibration error (0 is best)",
}


def write_card(folder: RunFolder) -> None:
    """Write a finished run's model card, twice. Raises RunError, StorageError."""
    content = card(folder)
    write_text(folder.path / NAMES[0], json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    write_text(folder.path / NAMES[1], markdown(content))


def card(folder: RunFolder) -> dict[str, Any]:
    """Return what the card says. Raises RunError where the run has not finished, or is damaged."""
    summary = folder.summary()
    facts = facts_by(folder, summary)
    return {
        "model": _model(facts, summary),
        "intended_use": facts.intended_use,
        "not_for": list(NOT_FOR),
        "data": _data(summary),
        "training": _training(folder, summary),
        "privacy": _privacy(summary),
        "results": _results(summary),
        "subgroups": _subgroups(summary),
        "federation": _federation(summary),
        "calibration": NOT_CALIBRATED if facts.calibration is None else facts.calibration.model_dump(),
        "operating_points": [point.model_dump() for point in facts.operating_points],
        "limits": list(_limits(facts, summary)),
    }


def _model(facts: ModelFacts, summary: RunSummary) -> dict[str, Any]:
    about = {"name": facts.name, "study": facts.study, "run": facts.run, "melfed": summary.melfed}
    inputs = f"a picture, {facts.image_size} × {facts.image_size} pixels once resized"
    needs = f"{inputs}, and age, sex and site" if facts.metadata else inputs
    gives = f"the probability of {', '.join(facts.positive)}"
    return {**about, "backbone": facts.backbone, "input": needs, "output": gives, "positive": list(facts.positive)}


def _data(summary: RunSummary) -> dict[str, Any]:
    data = summary.data
    about = data.model_dump(mode="json", include={"images", "melanomas", "groups", "groups_by", "synthetic", "counted"})
    clinics = [
        clinic.model_dump(mode="json", include={"name", "patients", "images", "melanomas"})
        for clinic in summary.clinics
    ]
    started = None if summary.public is None else summary.public.model_dump(mode="json")
    return {**about, "left_out": len(data.left_out), "clinics": clinics, "began_with_a_model_of": started}


def _training(folder: RunFolder, summary: RunSummary) -> dict[str, Any]:
    study = folder.study()
    absent = sorted({name for row in summary.rounds for name in (*row.failed, *row.declined)})
    return {
        "mode": summary.mode,
        "rounds": len(summary.rounds),
        "learns": study.model.train,
        "optimizer": study.training.optimizer,
        "combined_by": study.federation.algorithm,
        "missed_rounds": {
            name: [row.round for row in summary.rounds if name in row.failed or name in row.declined] for name in absent
        },
    }


def _privacy(summary: RunSummary) -> dict[str, Any] | None:
    privacy = summary.privacy
    if privacy is None:
        return None
    keys = ("unit", "epsilon", "epsilon_spent", "delta", "noise_multiplier", "sampling_rate", "steps", "clipping_norm")
    told = privacy.model_dump(mode="json", include={*keys, "evaluation", "evaluation_noise_multiplier", "released"})
    return {**told, "accountant": ACCOUNTANT, "warnings": list(privacy.warnings)}


def _results(summary: RunSummary) -> dict[str, Any]:
    keys = {"images", "patients", "melanomas", "auroc", "auprc", "brier", "ece"}
    keys |= {"sensitivity_at_90_specificity", "sensitivity_at_95_specificity"}
    whole = summary.test.model_dump(mode="json", include=keys)
    clinics = {clinic.name: clinic.test.auroc.model_dump(mode="json") for clinic in summary.clinics}
    calibration = None if summary.calibration is None else summary.calibration.model_dump(mode="json")
    points = [
        {"name": point.name, **point.model_dump(mode="json", include={"validation", "test"})}
        for point in summary.operating_points
        if point.logit is not None
    ]
    measured = {"calibration_on_test": calibration, "operating_points_on_test": points}
    return {"test_parts_pooled": whole, "auroc_by_clinic": clinics, **measured}


def _subgroups(summary: RunSummary) -> dict[str, Any] | None:
    """Return how the model does in each subgroup, and how to read that; None where the study asks for none."""
    if summary.subgroups is None:
        return None
    return {**summary.subgroups.model_dump(mode="json"), "reading": subgroups.reading(summary)}


def _federation(summary: RunSummary) -> dict[str, Any] | None:
    """Return whom the model has not learnt from, and what each clinic gained; None where the run says nothing of it."""
    said, gains = brought.headlines(summary), brought.gains(summary)
    if not said and not gains:
        return None
    told = [
        {
            "clinic": one.clinic,
            "alone": one.alone.model_dump(),
            "together": one.together.model_dump(),
            "gain": one.gain.model_dump(),
            "epsilon": one.epsilon,
        }
        for one in gains
    ]
    missing = [asdict(one) | {"rounds": list(one.rounds)} for one in brought.absences(summary.rounds)]
    return {"said": said, "not_learnt_from": missing, "gains": told}


def _limits(facts: ModelFacts, summary: RunSummary) -> Iterator[str]:
    """Yield what the numbers do not say."""
    yield "The results are of the test parts of the same clinics; no other clinic, camera or country was looked at."
    if facts.synthetic:
        yield "The images are rendered: nothing follows for patients."
    if summary.test.auroc.value is None:
        yield "AUROC and AUPRC are undefined: the test part has one class only, or the noise hides the melanomas."
    if facts.calibration is None:
        known = summary.calibration
        why = "" if known is None or known.lacking is None else f" ({known.lacking})"
        yield f"The probability is not calibrated{why}: it orders images, and is no share of melanomas among patients."
    else:
        yield "The probability is calibrated for patients as in validation; where melanomas are rarer it is too high."
    if facts.seen is None:
        yield "Nobody is warned of a picture unlike all that the model has seen: it carries no statistics of that."
    elif facts.seen.origin == "noised":
        yield "How often its warning of pictures unlike all that it has seen is a false alarm was not measured."
    for point in summary.operating_points:
        if point.lacking is not None:
            yield f"Operating point {point.name} is not promised: {point.lacking}."
    if not facts.operating_points and not summary.operating_points:
        yield "No operating point was promised: whoever applies a threshold has to choose and test it."
    yield from _limits_of_privacy(summary)
    for name in sorted({name for row in summary.rounds for name in (*row.failed, *row.declined)}):
        missed = sum(name in row.failed or name in row.declined for row in summary.rounds)
        yield f"Clinic {name} took no part in {missed} of {len(summary.rounds)} rounds: the model knows less of it."
    yield from summary.warnings


def _limits_of_privacy(summary: RunSummary) -> Iterator[str]:
    privacy = summary.privacy
    if privacy is None:
        yield "No noise protects the patients of the training parts: the model may tell about single ones."
        return
    if privacy.epsilon_spent is None:
        yield "The noise multiplier is 0 somewhere: ε has no bound."
    if privacy.unit != "patient":
        yield f"ε protects each {privacy.unit}: a patient with several is protected less."
    if privacy.evaluation == "public":
        yield "The evaluation images are declared public: ε does not cover them."
    yield from privacy.warnings


def markdown(content: dict[str, Any]) -> str:
    """Return a card as Markdown, without any markup in what clinics or studies call themselves."""
    model, results = content["model"], content["results"]
    whole = results["test_parts_pooled"]
    lines = [
        f"# Model card: {_plain(model['name'])}",
        "",
        f"**{content['intended_use']}**",
        "",
        *_list("Not for", content["not_for"]),
        *_table("Model", {key: value for key, value in model.items() if key != "positive"}),
        *_table("Data", {key: value for key, value in content["data"].items() if key not in {"clinics", "counted"}}),
        *_clinics(content),
        *_table("Training", content["training"]),
        *_privacy_lines(content["privacy"]),
        *_table("Results on the pooled test parts", {key: each for key, each in whole.items() if each is not None}),
        *_calibration(results["calibration_on_test"]),
        *_points(results["operating_points_on_test"]),
        *_subgroup_lines(content["subgroups"]),
        *_federation_lines(content["federation"]),
        *_table(
            "Reading the output",
            {"calibration": content["calibration"], "operating points": content["operating_points"] or "none"},
        ),
        *_list("Limits", content["limits"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _clinics(content: dict[str, Any]) -> list[str]:
    scored = content["results"]["auroc_by_clinic"]
    rows = ["| clinic | patients | with melanoma | AUROC (95 % interval) |", "| --- | --- | --- | --- |"]
    for clinic in content["data"]["clinics"]:
        name, score = clinic["name"], _shown(scored[clinic["name"]])
        rows.append(f"| {_plain(name)} | {clinic['patients']} | {clinic['melanomas']} | {score} |")
    return ["## Clinics", "", *rows, ""]


def _calibration(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    columns = ["before"] if found["after"] is None else ["before", "after"]
    heads = " | ".join(f"{name} the map" for name in columns)
    rows = [f"| calibration | {heads} |", "| --- " * (1 + len(columns)) + "|"]
    for name, title in _CALIBRATION.items():
        rows.append(f"| {title} | {' | '.join(_shown(found[column][name]) for column in columns)} |")
    return ["## Calibration on the pooled test parts", "", *rows, ""]


def _subgroup_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = ["## Subgroups", ""]
    for attribute in found["attributes"]:
        rows = [f"| {attribute['attribute'].replace('_', ' ')} | all | melanomas | {' | '.join(MEASURES)} |"]
        rows.append("| --- " * (3 + len(MEASURES)) + "|")
        for name, cell in attribute["cells"].items():
            values = [subgroups.TOO_FEW] * len(MEASURES) if cell["too_few"] else [_shown(cell[m]) for m in MEASURES]
            rows.append(f"| {_plain(name)} | {cell['units']} | {cell['melanomas']} | {' | '.join(values)} |")
        gaps = [
            f"- Largest gap of {gap['measure']}: {_shown(gap['gap'])}, from {_plain(gap['lowest'])} to "
            f"{_plain(gap['highest'])}"
            for gap in attribute["gaps"]
        ]
        lines += [*rows, "", *gaps, *([""] if gaps else [])]
    return [*lines, _plain(" ".join(found["reading"])), ""]


def _federation_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    lines = _list("What the federation brought", found["said"])
    if not found["gains"]:
        return lines
    rows = ["| clinic | AUROC alone | together | gain | ε |", "| --- | --- | --- | --- | --- |"]
    for one in found["gains"]:
        told = [_shown(one[name]) for name in ("alone", "together", "gain", "epsilon")]
        rows.append(f"| {_plain(one['clinic'])} | {' | '.join(told)} |")
    return [*lines, *rows, ""]


def _points(points: list[dict[str, Any]]) -> list[str]:
    if not points:
        return []
    rows = ["| operating point | part | sensitivity | specificity |", "| --- | --- | --- | --- |"]
    for point in points:
        for part in ("validation", "test"):
            found = point[part]
            shown = f"{_shown(found['sensitivity'])} | {_shown(found['specificity'])}"
            rows.append(f"| {_plain(point['name'])} | {part} | {shown} |")
    return ["## Operating points", "", *rows, ""]


def _privacy_lines(privacy: dict[str, Any] | None) -> list[str]:
    if privacy is None:
        return ["## Privacy", "", "None: trained without differential privacy.", ""]
    told = {key: value for key, value in privacy.items() if key not in {"released", "warnings"}}
    rows = ["| what left the clinics | protection | cost |", "| --- | --- | --- |"]
    rows += [
        f"| {_plain(row['quantity'])} | {_plain(row['protection'])} | {_plain(row['cost'])} |"
        for row in privacy["released"]
    ]
    return [*_table("Privacy", told), *rows, ""]


def _table(title: str, values: dict[str, Any]) -> list[str]:
    rows = [f"| {name.replace('_', ' ')} | {_plain(_shown(value))} |" for name, value in values.items()]
    return [f"## {title}", "", "| | |", "| --- | --- |", *rows, ""]


def _list(title: str, items: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {_plain(item)}" for item in items), ""]


def _shown(value: Any) -> str:
    """Return a value for people: intervals with three digits, and what is not there as "none"."""
    if isinstance(value, dict) and value.keys() == Interval.model_fields.keys():
        if value["value"] is None:
            return "undefined"
        between = " to " if value["low"] < 0 else "–"
        return f"{value['value']:.3f} ({value['low']:.3f}{between}{value['high']:.3f})"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_shown(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_shown(each) for each in value) or "none"
    return "none" if value is None else str(value)


def _plain(text: str) -> str:
    """Return a text in one line, in which nothing is markup."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in line)
