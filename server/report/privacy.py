"""The report's section on privacy: what was protected, how, at what cost, and everything that left the clinics."""

from collections.abc import Iterator

from melfed.common.study.protocol import PrivacySpec
from melfed.server.report import privacy_words
from melfed.server.report.markup import Markup, element
from melfed.server.report.parts import columns, facts, notice, panel, table, word_table
from melfed.server.report.privacy_words import ceiling, short, units
from melfed.server.report.words import count, initial_weights
from melfed.server.runs.summary import ClinicSummary, PrivacySummary, PublicData, RunSummary

HEAD_SHOWN = 16  # hexadecimal digits of a ledger's head
ACCOUNTANT = "privacy loss distributions (PLD), as in Google's dp-accounting; RDP and PRV agreed"


def privacy_notice(privacy: PrivacySummary) -> Markup:
    """Return the line at the head of the page."""
    return notice(privacy_words.headline(privacy), warning=privacy.epsilon_spent is None)


def privacy_section(summary: RunSummary, privacy: PrivacySummary, spec: PrivacySpec) -> list[Markup]:
    """Return the section's content; `spec` is what the study stated."""
    parts = [notice(f"Warning: {words}", warning=True) for words in privacy.warnings]
    parts.append(panel(facts(list(_protection(privacy)))))
    parts.append(_below(_mechanism(privacy, spec)))
    parts.append(_below(_ledgers(summary.clinics, privacy)))
    parts.append(_below(_released(privacy)))
    if privacy.recipe:
        parts.append(_below(_recipe(privacy)))
    if summary.public is not None:
        parts.append(_public(summary.public))
    return [*parts, _meaning(privacy)]


def _public(public: PublicData) -> Markup:
    known = [
        ("Initial weights", initial_weights(public)),
        ("Taken as public", "these images: nothing protects them here, nor someone who is among them and at a clinic"),
    ]
    return panel(facts(known), below=True)


def _below(content: Markup) -> Markup:
    return element("div", content, class_="below")


def _protection(privacy: PrivacySummary) -> Iterator[tuple[str, str]]:
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


def _mechanism(privacy: PrivacySummary, spec: PrivacySpec) -> Markup:
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
        ("δ", short(privacy.delta), "what every probability may be off by"),
        ("Neighbouring data", "add or remove", f"two data sets that differ by all images of one {unit}"),
        ("Accountant", "PLD", ACCOUNTANT if privacy.noise_multiplier else "nothing to account: there is no noise"),
    ]
    if privacy.count_noise_multiplier is not None:
        meaning = f"noise on each number of {units(privacy)} that a clinic tells; one {unit} changes one of them by 1"
        rows.insert(1, ("σ of counts", f"{privacy.count_noise_multiplier:.4g}", meaning))
    if privacy.evaluation == "noised":
        rows.insert(1, ("σ of histograms", _sigma(privacy), f"noise over the most that one {unit} adds to a release"))
    if spec.views > 1:
        rows.insert(-3, ("Views", count(spec.views), "augmented views of an image, averaged before clipping"))
    caption = "The mechanism: DP-SGD (Abadi et al. 2016), the same at every clinic."
    return word_table(caption, ("Quantity", "Value", "Meaning"), rows)


def _ledgers(clinics: tuple[ClinicSummary, ...], privacy: PrivacySummary) -> Markup:
    rows = [_ledger_row(account.name, _loss(account.epsilon), account.ledger_head) for account in privacy.clinics]
    named = {account.name for account in privacy.clinics}
    rows += [_ledger_row(clinic.name, "no account given", "") for clinic in clinics if clinic.name not in named]
    caption = (
        f"The clinics' ledgers after the run: total ε at δ = {short(privacy.delta)}, and the hash of the last row, by "
        "which a later look can tell whether rows were taken away."
    )
    return table(caption, columns("Clinic", "ε spent", "Ledger head"), rows)


def _loss(epsilon: float | None) -> str:
    return "unbounded" if epsilon is None else ceiling(epsilon)


def _ledger_row(name: str, loss: str, head: str) -> Markup:
    shown = element("code", f"{head[:HEAD_SHOWN]}…", title=head) if head else "–"
    return element("tr", element("th", element("bdi", name), scope="row"), element("td", loss), element("td", shown))


def _released(privacy: PrivacySummary) -> Markup:
    rows = [(row.quantity, row.protection, row.cost) for row in privacy.released]
    together = "no bound" if privacy.epsilon_spent is None else f"no more than ε = {privacy_words.spent(privacy)}"
    caption = f"All that leaves a clinic, how it is protected, and what it costs. The parts of ε come to {together}."
    return word_table(caption, ("Quantity", "Protection", "Cost"), rows)


def _recipe(privacy: PrivacySummary) -> Markup:
    rows = [(element("code", choice.key), choice.value, choice.reason) for choice in privacy.recipe]
    caption = "What the recipe chose where the study states nothing, from public quantities alone."
    return word_table(caption, ("Key", "Value", "Reason"), rows)


def _meaning(privacy: PrivacySummary) -> Markup:
    points = privacy_words.meanings(privacy)
    said = [element("div", element("dt", title), element("dd", text)) for title, text in points]
    return _below(element("dl", *said, class_="meaning panel"))
