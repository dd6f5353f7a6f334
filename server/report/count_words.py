"""How page and terminal speak of the numbers that clinics tell of their data: what they are of, and with what noise."""

import math
from collections.abc import Iterable, Sequence

from melfed.server.report.words import capital, count, counted, noised_unit, plural
from melfed.server.runs.summary import AT_CLINICS, ClinicSummary, Counted, RunSummary

ABOUT = "≈"
_ON_FEW = " on those with a melanoma"


def told_unit(summary: RunSummary) -> str | None:
    """Return what the clinics' own numbers are of in a private run; None where they are of images, and of groups."""
    private = summary.privacy is not None and any(clinic.counted.how != "rounded" for clinic in summary.clinics)
    return summary.privacy.unit if private and summary.privacy else None


def headings(unit: str) -> tuple[str, str]:
    """Return what stands above numbers of units, and of those with a melanoma."""
    return capital(plural(unit)), "Melanomas" if unit == "image" else "With melanoma"


def marked(value: int, *, about: bool) -> str:
    """Return a whole number; one that is not exact has a mark before it, so that both may stand in one column."""
    return f"{ABOUT} {count(value)}" if about else count(value)


def is_about(clinics: Iterable[ClinicSummary]) -> bool:
    """Tell whether a clinic's own numbers, or a sum of several clinics', are not exact."""
    return any(clinic.counted.how in {"noised", "rounded"} for clinic in clinics)


def scope(summary: RunSummary) -> str:
    """Return what the clinics' own numbers are of: all data, or where the rest is declared public, training alone."""
    training = any(clinic.counted.parts == "training" for clinic in summary.clinics)
    return "training data" if training else "all data"


def told(summary: RunSummary) -> str:
    """Return how a private run's numbers came about, in sentences; empty without privacy."""
    if summary.privacy is None:
        return ""
    if (unit := told_unit(summary)) is None:
        whole = "Numbers of all data are as the clinics told them to melfed 0.1: rounded, part by part."
    else:
        noised = [clinic for clinic in summary.clinics if clinic.counted.how == "noised"]
        bare = [clinic.name for clinic in summary.clinics if clinic.counted.how != "noised"]
        known = f"{capital(scope(summary))} are counted in {plural(unit)}"
        sentences = [f"{known}, whose numbers each clinic told once, with {_noise(noised)}."] if noised else []
        if bare:
            who = _listed(bare) if noised else known
            sentences.append(_bare(who, declared=summary.privacy.epsilon_spent is not None, some=bool(noised)))
        whole = " ".join(sentences)
    counting = noised_unit(summary)
    if counting is None:
        return f"{whole} The numbers of the test part are exact: the study declares these images public."
    estimated = f"estimates from noisy histograms, which count every {counting} once"
    return f"{whole} The numbers of the test part are {estimated}."


def of_data(summary: RunSummary) -> str | None:
    """Return what a private run's clinics told of their data, all together; None where the numbers are exact."""
    data, unit = summary.data, told_unit(summary)
    if data.layout != AT_CLINICS or unit is None or data.counted.how in {"exact", "rounded"}:
        return None
    about = "about " if data.counted.how == "noised" else ""
    where = " for training" if data.counted.parts == "training" else ""
    noise = f", with noise of about {_pair(data.counted, ' on the latter')}" if about else ""
    return (
        f"{about}{count(data.groups)} {plural(unit)}{where}, {about}{count(data.melanomas)} of them with a melanoma"
        f"{noise}"
    )


def amounts(summary: RunSummary) -> str:
    """Return how much data there is, as far as it is known."""
    if told := of_data(summary):
        return told
    data = summary.data
    parts = [counted(data.melanomas, "melanoma", "melanomas")]
    if data.images is not None:
        parts.insert(0, f"{count(data.images)} images")
    if data.groups_by != "image":
        parts.append(f"{count(data.groups)} {plural(data.groups_by)}")
    return ", ".join(parts)


def _noise(clinics: Sequence[ClinicSummary]) -> str:
    """Return the noise of one clinic's numbers (the largest, should they differ), and that of the sums."""
    largest = max((clinic.counted for clinic in clinics), key=lambda counted: counted.patients_noise)
    if len(clinics) == 1:
        return f"noise of about {_pair(largest, _ON_FEW)}"
    sums = Counted(
        patients_noise=math.hypot(*(clinic.counted.patients_noise for clinic in clinics)),
        melanomas_noise=math.hypot(*(clinic.counted.melanomas_noise for clinic in clinics)),
    )
    return f"noise of about {_pair(largest, _ON_FEW)}; the sums have noise of about {_pair(sums)}"


def _pair(counted: Counted, which: str = "") -> str:
    return f"{_about(counted.patients_noise)} ({_about(counted.melanomas_noise)}{which})"


def _about(noise: float) -> str:
    return count(round(noise)) if noise >= 9.5 else f"{noise:.2g}"


def _bare(who: str, *, declared: bool, some: bool) -> str:
    """Say of numbers without noise what they are. Exact ones would leave a ledger without bound."""
    if some:
        return f"{who} {'stated public figures in their place' if declared else 'told them'}, without noise."
    if declared:
        return f"{who}: public figures that the clinics state, without noise."
    return f"{who}, without noise (exactly, unless a clinic stated public figures)."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
