"""The report's section on privacy: what was protected, how, at what cost, and everything that left the clinics."""

from collections.abc import Iterator

from melfed.common.study.protocol import PrivacySpec
from melfed.server.report import privacy_words
from melfed.server.report.privacy_words import ceiling, short, units
from melfed.server.report.words import count
from melfed.server.runs.summary import ClinicSummary, PrivacySummary

ACCOUNTANT = "privacy loss distributions (PLD), as in Google's dp-accounting; RDP and PRV agreed"


def protection(privacy: PrivacySummary) -> Iterator[tuple[str, str]]:
    """Yield facts on who is protected, how strongly, and by whom."""
    unit = privacy.unit
    off = privacy.epsilon_spent is None
    yield "Protected", "nobody" if off else privacy_words.protected(privacy)
    if unit == "patient":
        yield "Which means", "adding or leaving out all images of one patient hardly changes what leaves the clinic"
    else:
        yield (
            "Which means",
            f"adding or leaving out one {unit} hardly changes what leaves the clinic. Two {units(privacy)} of one "
            "patient count as two, so a patient with several is protected less",
        )
    yield "Privacy loss", privacy_words.strength(privacy)
    yield "By whom", "each clinic: it samples, clips and adds noise before anything leaves, and keeps its own ledger"
    public = "declared public by the study: nothing protects them"
    noised = f"protected as well: their histograms of scores carry noise of σ {_sigma(privacy)}"
    yield "Validation and test images", public if privacy.evaluation == "public" else noised


def _sigma(privacy: PrivacySummary) -> str:
    noise = privacy.evaluation_noise_multiplier
    return f"{noise:.4g}" if noise else "0, which is none"


Rows = list[tuple[str, str, str]]


def release(privacy: PrivacySummary) -> Rows:
    """Return each quantity of the mechanism of a study of one round, its value and its meaning."""
    unit = privacy.unit
    rows = [
        (
            "Noise multiplier σ",
            f"{privacy.noise_multiplier:.4g}",
            f"Gaussian noise of √3 σ on each number; all that one {unit} adds to them has norm √3 at most",
        ),
        ("Largest norm of features", "1", f"longer ones are shortened; a {unit}'s images of a class are averaged"),
        *_every_mechanism(privacy),
    ]
    return _with_other_noise(rows, privacy)


def mechanism(privacy: PrivacySummary, spec: PrivacySpec) -> Rows:
    """Return each quantity of the mechanism, its value and its meaning; `spec` is what the study stated."""
    unit = privacy.unit
    clip = "shortened to C where it is longer" if privacy.clipping == "fixed" else "scaled to nearly C, however short"
    rows = [
        (
            "Noise multiplier σ",
            f"{privacy.noise_multiplier:.4g}",
            f"Gaussian noise of σ C on a sum over {units(privacy)}",
        ),
        ("Sampling rate q", short(privacy.sampling_rate), f"probability that a {unit} takes part in a step (Poisson)"),
        ("Clipping norm C", short(privacy.clipping_norm), f"a {unit}'s mean gradient over its images is {clip}"),
        ("Steps", count(privacy.steps), "of all rounds together; a step in which nobody takes part is noise alone"),
        *_every_mechanism(privacy),
    ]
    _with_other_noise(rows, privacy)
    if spec.views > 1:
        rows.insert(-3, ("Views", count(spec.views), "augmented views of an image, averaged before clipping"))
    return rows


def _every_mechanism(privacy: PrivacySummary) -> Rows:
    return [
        ("δ", short(privacy.delta), "what every probability may be off by"),
        ("Neighbouring data", "add or remove", f"two data sets that differ by all images of one {privacy.unit}"),
        ("Accountant", "PLD", ACCOUNTANT if privacy.noise_multiplier else "nothing to account: there is no noise"),
    ]


def _with_other_noise(rows: Rows, privacy: PrivacySummary) -> Rows:
    """Return the rows, with those of the noise on histograms and counts after the first."""
    unit = privacy.unit
    if privacy.count_noise_multiplier is not None:
        meaning = f"noise on each number of {units(privacy)} that a clinic tells; one {unit} changes one of them by 1"
        rows.insert(1, ("σ of counts", f"{privacy.count_noise_multiplier:.4g}", meaning))
    if privacy.evaluation == "noised":
        rows.insert(1, ("σ of histograms", _sigma(privacy), f"noise over the most that one {unit} adds to a release"))
    return rows


def ledgers(clinics: tuple[ClinicSummary, ...], privacy: PrivacySummary) -> Iterator[tuple[str, str, str]]:
    """Yield each clinic's name, its loss after the run and its ledger's head; "" where it gave no account."""
    for account in privacy.clinics:
        loss = "unbounded" if account.epsilon is None else ceiling(account.epsilon)
        yield account.name, loss, account.ledger_head
    named = {account.name for account in privacy.clinics}
    yield from ((clinic.name, "no account given", "") for clinic in clinics if clinic.name not in named)
