"""How the report says things: numbers, units, reasons, and what the numbers mean."""

from collections.abc import Sequence

from melfed.common.algorithms import algorithm_of
from melfed.common.metrics.exact import EvaluationMetrics, Interval
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.summary import AT_CLINICS, DataSummary, PublicData, RoundSummary, RunSummary

SYNTHETIC = "Synthetic images: these numbers say nothing about real patients"
PARTLY_SYNTHETIC = "Synthetic images at {}, mixed with others': the pooled numbers say nothing about real patients"
NOTICE = "Research software, no medical device."
FEW = 10
_METRICS = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score"}
GUESSING = "0.500"
ONE_SIDED = 0.005
"""Where a smaller share of images scores on one side of a threshold, the threshold tells them apart no longer."""

_PLURALS = {"patient": "patients", "lesion": "lesions", "duplicate group": "duplicate groups", "image": "images"}

MODES = {
    "federated": "Federated: the clinics trained one model together",
    "one_round": "One round: the head is solved from noised moments of features, which each clinic released once",
    "central": "Central baseline: one model trained on all clinics' images in one place",
    "local": "Local baseline: each clinic trained a model of its own, on its own images alone",
}

_SPLITS = {
    "patient": "Splits go by patient: all images of a patient are in one part (training, validation or test) of one "
    "clinic.",
    "lesion": "Splits go by lesion, as the data names no patients: all images of a lesion are in one part of one "
    "clinic, but two lesions of one patient may stand on both sides of a split, which can flatter the results.",
    "duplicate group": "Splits go by group of duplicate images, as the data names neither patients nor lesions: images "
    "of one patient may stand on both sides of a split, which can flatter the results.",
    "image": "Splits go by image, as the data names neither patients nor lesions: images of one patient may stand on "
    "both sides of a split, which can flatter the results.",
}


def way(study: StudyProtocol) -> str:
    """Return how the clinics came to a model."""
    began = study.federation.asks_for_moments and study.federation.mode != "one_round"
    start = ", beginning at a head that was solved from moments, which each clinic released once" if began else ""
    return f"{MODES[study.federation.mode]}{start}"


def plural(groups_by: str) -> str:
    """Return the word for groups of images: patients, lesions, ... or, where the data mixes them, groups."""
    return _PLURALS.get(groups_by, "groups")


def synthetic(data: DataSummary) -> str:
    """Return what is to be known of a run whose images, or some clinics', are synthetic; empty of any other."""
    if not data.synthetic:
        return ""
    return PARTLY_SYNTHETIC.format(", ".join(data.synthetic_clinics)) if data.synthetic_clinics else SYNTHETIC


def capital(words: str) -> str:
    """Return words with a capital first letter."""
    return words[:1].upper() + words[1:]


def splits_by(summary: RunSummary) -> str:
    """Return what a split keeps together, and what that is worth."""
    if summary.privacy and any(clinic.counted.how != "rounded" for clinic in summary.clinics):
        return _private_splits(summary.privacy.unit)
    groups_by = summary.data.groups_by
    mixed = (
        f"Splits go by {groups_by}: all images of such a group are in one part of one clinic. Where a patient is not "
        "named, images of that patient may stand on both sides of a split, which can flatter the results."
    )
    return _SPLITS.get(groups_by, mixed)


def _private_splits(unit: str) -> str:
    said = f"Splits go by {unit}, which is what the study protects"
    if unit == "patient":
        return f"{said}: all images of a patient are in one part (training, validation or test) of one clinic."
    kept = f"all images of a {unit} are in one part of one clinic, but two {plural(unit)}"
    kept = "images" if unit == "image" else kept
    return f"{said}: {kept} of one patient may stand on both sides of a split, which can flatter the results."


def exact_groups(summary: RunSummary) -> str:
    """Return what exact histograms count beside images."""
    unit = summary.privacy.unit if summary.privacy else None
    # Clinics group what their own tables tie together, whatever the study protects.
    deployed = summary.data.layout == AT_CLINICS and unit in {"lesion", "image"}
    return "group" if deployed else summary.data.groups_by


def count(value: int) -> str:
    """Return a whole number with thousands separated."""
    return f"{value:,}"


def counted(value: int, one: str, many: str) -> str:
    """Return a count with its noun."""
    return f"{count(value)} {one if value == 1 else many}"


def value_of(interval: Interval) -> str:
    """Return a value with three decimals, or `undefined`."""
    return "undefined" if interval.value is None else f"{interval.value:.3f}"


def limits_of(interval: Interval) -> str | None:
    """Return the two limits, or None where undefined."""
    if interval.low is None or interval.high is None:
        return None
    return f"{interval.low:.3f} to {interval.high:.3f}"


def spoken(interval: Interval) -> str:
    """Return value and limits as running text."""
    limits = limits_of(interval)
    return f"{value_of(interval)} (95 % interval {limits})" if limits else value_of(interval)


def noised_unit(summary: RunSummary) -> str | None:
    """Return the unit that noised histograms count, or None where histograms are exact and count images."""
    privacy = summary.privacy
    return privacy.unit if privacy is not None and privacy.evaluation == "noised" else None


def hint(metrics: EvaluationMetrics, part: str = "test", unit: str | None = None) -> str | None:
    """Return why metrics are undefined or weak, or None where neither holds; `unit` as of `noised_unit`."""
    return _exact_hint(metrics, part) if unit is None else _noised_hint(metrics, part, plural(unit))


def _exact_hint(metrics: EvaluationMetrics, part: str) -> str | None:
    if metrics.images == 0:
        return f"no {part} image was evaluated"
    if metrics.melanomas == 0:
        return f"no melanoma in {part}"
    if metrics.melanomas == metrics.images:
        return f"nothing but melanomas in {part}"
    others = metrics.images - metrics.melanomas
    if min(metrics.melanomas, others) >= FEW:
        return None
    if metrics.melanomas <= others:
        return f"only {counted(metrics.melanomas, 'melanoma', 'melanomas')} in {part}"
    return f"only {counted(others, 'other image', 'other images')} in {part}"


def _noised_hint(metrics: EvaluationMetrics, part: str, units: str) -> str | None:
    if metrics.images == 0:
        return f"no histogram of {part}, or nothing in it that shows under the noise"
    if metrics.auroc.value is None:
        return f"too few {units} in {part} for the noise"
    others = metrics.images - metrics.melanomas
    if min(metrics.melanomas, others) >= FEW:
        return None
    which = "with" if metrics.melanomas <= others else "without"
    return f"only about {count(min(metrics.melanomas, others))} {units} {which} a melanoma in {part}"


def at_half(metrics: EvaluationMetrics, called: float | None) -> str | None:
    """Return why the balanced accuracy at 0.5 is that of guessing; None where it is another, or undefined.

    Args:
        metrics: of the test part.
        called: share of it that scores 0.5 or more, as `melfed.common.metrics.noisy.share_called`.
    """
    if value_of(metrics.balanced_accuracy) != GUESSING:
        return None
    if called is None or ONE_SIDED <= called <= 1 - ONE_SIDED:
        return "at this threshold the model does no better than guessing"
    who = "no image" if called in {0.0, 1.0} else "hardly any image"
    side = "0.5 or more" if called < ONE_SIDED else "less than 0.5"
    return f"{who} scores {side}, so that all get the same answer; judge by AUROC, or choose another threshold"


def prevalence(metrics: EvaluationMetrics) -> float | None:
    """Return the share of melanomas: the AUPRC of guessing."""
    return metrics.melanomas / metrics.images if metrics.images else None


def test_size(summary: RunSummary) -> tuple[str, str]:
    """Return what the test part's melanomas are, and what they are among."""
    test, unit = summary.test, noised_unit(summary)
    if unit is not None:
        units = plural(unit)
        title = "Melanomas in test" if unit == "image" else f"{capital(units)} with melanoma in test"
        return title, f"in about {count(test.images)} {units}, estimated from noisy counts"
    groups_by = exact_groups(summary)
    of_groups = f" of {count(test.patients)} {plural(groups_by)}"
    images = counted(test.images, "test image", "test images")
    return "Melanomas in test", f"in {images}{'' if groups_by == 'image' else of_groups}"


def duration(seconds: float) -> str:
    """Return a duration in words, to a precision that suits its size."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def megabytes(size: int) -> str:
    """Return bytes as MB (10^6 bytes)."""
    return f"{size / 1e6:,.2f}" if size < 1e8 else f"{size / 1e6:,.0f}"


def traffic(rounds: Sequence[RoundSummary], study: StudyProtocol) -> str:
    """Return what travelled in all rounds together, and how clinics told their updates."""
    up, down = (sum(getattr(row, name) for row in rounds) for name in ("bytes_up", "bytes_down"))
    how = "" if study.federation.compression == "none" else f" (updates in {study.federation.compression})"
    return f"{megabytes(up)} MB from the clinics{how}, {megabytes(down)} MB to them"


def initial_weights(public: PublicData) -> str:
    """Return what the initial weights come from."""
    sources = ", ".join(public.sources) or "sources not on record"
    images = "images" if public.images is None else counted(public.images, "image", "images")
    return f"the model of study {public.study} (digest {public.digest[:12]}), trained on {images} of: {sources}"


def stopping(summary: RunSummary) -> list[tuple[str, str]]:
    """Return what early stopping did, as facts; none of a study that does not stop early."""
    stop = summary.stop
    if stop is None:
        return []
    metric = _METRICS[stop.metric]
    rows = []
    for model in stop.models:
        whose = f"{model.clinic}: " if model.clinic else ""
        value = "undefined in every round" if model.value is None else f"{model.value:.3f}"
        ran = f"{count(model.trained)} of {counted(stop.planned, 'round', 'rounds')} trained"
        rows.append(f"{whose}the model of round {count(model.round)} (validation {metric} {value}); {ran}")
    patience = f"after {counted(stop.patience, 'validation', 'validations')} without a better {metric}"
    facts = [("Early stopping", f"{patience}, at most {counted(stop.planned, 'round', 'rounds')}. {'; '.join(rows)}.")]
    if summary.privacy is not None:
        facts.append(
            (
                "Early stopping and ε",
                "What the study guarantees is its ε for all planned rounds; the ledgers were charged for the rounds "
                "that ran.",
            )
        )
    return facts


def final_model(study: StudyProtocol) -> str:
    """Return which model was scored on the test part."""
    if study.federation.stop is not None and study.federation.mode != "one_round":
        whose = "each clinic's" if study.federation.mode == "local" else "the"
        return f"{whose} model of the best round by validation ({_METRICS[study.federation.stop.metric]})"
    if study.federation.mode == "one_round":
        return "the head that was solved from the clinics' moments"
    if study.federation.mode == "federated" and algorithm_of(study.federation.algorithm).personal:
        return "each clinic's own model after the last round, on that clinic's own test part"
    rounds = round(study.federation.tail_average * study.federation.rounds)
    if rounds < 2 or study.federation.mode != "federated":
        return "the model after the last round"
    return f"the average of the models of the last {count(rounds)} rounds (which the last validation is of as well)"
