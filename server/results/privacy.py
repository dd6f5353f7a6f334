"""What a private study protected, what it cost, and everything that left its clinics."""

import math
from collections.abc import Iterator, Mapping, Sequence

from melfed.common.algorithms import algorithm_of
from melfed.common.errors import RunError, StudyError
from melfed.common.study.evaluation_noise import noised_attributes, subgroups_multiplier
from melfed.common.study.moments_noise import of_moments
from melfed.common.study.protocol import PrivacySpec, StudyProtocol, validates
from melfed.common.study.recipe import Choice
from melfed.common.study.step_plan import trainings
from melfed.server.report.privacy_words import shown
from melfed.server.runs.counts import Counts
from melfed.server.runs.outcome import ReportedAccount
from melfed.server.runs.summary import ClinicPrivacy, PrivacySummary, RecipeChoice, ReleasedQuantity

PART = "part of ε"
UNBOUNDED = "no bound: there is no noise"
UNCHARGED = "not covered by ε"
KEPT = "nothing leaves"
NO_PATIENT = "nothing about a patient"

_PLURALS = {"patient": "patients", "lesion": "lesions", "image": "images"}


def summarise_privacy(
    study: StudyProtocol,
    accounts: Mapping[str, ReportedAccount],
    clinics: Mapping[str, Counts],
    choices: Sequence[Choice] = (),
    warnings: Sequence[str] = (),
    trained: int | None = None,
) -> PrivacySummary | None:
    """Return the privacy of a finished run; None where the study has no privacy section.

    Where clinics differ, the weakest stands for all: the smallest σ, the largest ε.

    Args:
        study: with its recipe applied, as it was run.
        accounts: what each clinic last said of its privacy.
        clinics: what each clinic said of its data.
        choices: what the recipe chose.
        warnings: what to tell beside the result, such as a δ that is too large.
        trained: rounds that ran, of a study that stopped early; None: all that it plans.

    Raises:
        RunError: no clinic gave an account.
        StudyError: clinics accounted for noise in their histograms, or for none, against the study.
    """
    privacy = study.privacy
    if privacy is None:
        return None
    if not accounts:
        raise RunError(f"study {study.name}: no clinic said what it spent, so nothing can be said of its privacy")
    spent = _largest([account.epsilon for account in accounts.values()])
    rounds = study.federation.rounds if trained is None else trained
    noise = min(account.noise_multiplier for account in accounts.values())
    evaluation = _evaluation_noise(study, privacy, accounts)
    counts = min((clinic.noise for clinic in clinics.values() if clinic.noise), default=None)
    return PrivacySummary(
        unit=privacy.unit,
        epsilon=privacy.epsilon,
        epsilon_spent=spent,
        delta=privacy.delta,
        noise_multiplier=noise,
        sampling_rate=privacy.sampling_rate,
        steps=rounds * privacy.steps * trainings(study),
        clipping=privacy.clipping,
        clipping_norm=privacy.clipping_norm,
        evaluation=privacy.evaluation,
        evaluation_noise_multiplier=evaluation,
        count_noise_multiplier=counts,
        recipe=tuple(RecipeChoice(key=c.key, value=shown(c.value), reason=c.reason) for c in choices),
        released=(
            *_released(study, privacy, noise, evaluation, rounds),
            *_counts(privacy, spent is not None, clinics),
            *_others(study),
        ),
        clinics=tuple(
            ClinicPrivacy(name=name, epsilon=_largest([account.epsilon]), ledger_head=account.head)
            for name, account in sorted(accounts.items())
        ),
        warnings=tuple(warnings),
    )


def _largest(values: Sequence[float | None]) -> float | None:
    """The largest ε; None where one is unbounded, however that is written."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return max(known) if len(known) == len(values) else None


def _evaluation_noise(
    study: StudyProtocol, privacy: PrivacySpec, accounts: Mapping[str, ReportedAccount]
) -> float | None:
    noises = [account.evaluation_noise_multiplier for account in accounts.values()]
    known = [noise for noise in noises if noise is not None]
    if len(known) != (len(noises) if privacy.evaluation == "noised" else 0):
        raise StudyError(
            f"study {study.name}: its evaluation is {privacy.evaluation}, but {len(known)} of {len(noises)} clinics "
            "accounted for noise in their histograms; use the same melfed version everywhere"
        )
    return min(known, default=None)


def _released(
    study: StudyProtocol, privacy: PrivacySpec, noise: float, evaluation: float | None, rounds: int
) -> Iterator[ReleasedQuantity]:
    """Yield the models, moments and histograms that a clinic sends, and what protects each."""
    if study.federation.asks_for_moments:
        yield _moments(study, privacy, of_moments(study, noise))
    if study.federation.mode != "one_round":
        yield _updates(study, privacy, noise, rounds)
    yield from _histograms(study, privacy, evaluation, rounds)


def _counts(privacy: PrivacySpec, bounded: bool, clinics: Mapping[str, Counts]) -> Iterator[ReleasedQuantity]:
    """Yield the numbers that clinics tell of their data: each clinic noises its own, or declares public figures.

    A clinic that told exact numbers would have no bound on its ε: where there is one, those without noise are declared.
    """
    unit, units, public = privacy.unit, _PLURALS[privacy.unit], privacy.evaluation == "public"
    where = "for training" if public else "in each part"
    quantity = (
        f"Numbers of {units} with a positive image and of other {units}, {where}; also the clinic's weight in the "
        "average and the divisor of its noisy sums"
    )
    noised = [counts.noise for counts in clinics.values() if counts.noise]
    bare = sorted(name for name, counts in clinics.items() if not counts.noise)
    if noised:
        protection = (
            f"Gaussian noise of {min(noised):.4g} on each; one {unit} changes one of them by 1; drawn once for the "
            "run, so that asking again tells nothing new"
        )
        yield _row(quantity, protection, PART)
    if bare and bounded:
        whose = f" (by {', '.join(bare)})" if noised else ""
        yield _row(
            f"The same, declared{whose}" if noised else quantity,
            "public figures that the clinic itself states, and nothing that it counted",
            "none",
        )
    if bare and not bounded:
        yield _row(quantity, "there is no noise, unless the clinic states public figures", UNBOUNDED)
    if public:
        yield _row(
            "Numbers of validation and test images, of melanomas and of groups among them",
            "exact: the study declares these images public",
            UNCHARGED,
        )


def _others(study: StudyProtocol) -> Iterator[ReleasedQuantity]:
    """Yield what else leaves a clinic, and what is kept back."""
    if own := _own(study):
        yield _row(own, KEPT, "none")
    yield _row("Training loss, gradient norms, how many took part in a step, scores of single images", KEPT, "none")
    yield _row(
        "Time that a clinic takes for a round",
        "none: it is longer where there are more images",
        UNCHARGED,
    )
    yield _row(
        "Whether a clinic answers, declines or fails, and the reason that it gives",
        "reasons are about study, model and policy; others stay in the clinic's own log (a simulation gives all)",
        UNCHARGED,
    )
    yield _row("The clinic's name, the study's digest, the size of messages, σ, and the ledger's ε", NO_PATIENT, "none")
    yield _row("Whether the data folder says that its pictures are synthetic", NO_PATIENT, "none")
    yield _row(
        "How long a round may take, where the clinic tells it: a power of two of minutes",
        "of synthetic images, as many as the study guesses: nothing about a patient",
        "none",
    )
    yield _row(
        "Hash of the ledger's last row",
        "what it covers of the data is a digest under the clinic's own secret key, so no guess can be checked by it",
        "none",
    )


def _updates(study: StudyProtocol, privacy: PrivacySpec, noise: float, rounds: int) -> ReleasedQuantity:
    steps = rounds * privacy.steps
    how = "clipped to" if privacy.clipping == "fixed" else "scaled to at most"
    asked = "" if study.federation.cohort == 1 else ", fewer where a clinic is not asked in each round"
    if noise:
        protection = (
            f"each {privacy.unit} takes part in a step with probability {privacy.sampling_rate:g}; its gradient is "
            f"{how} norm {privacy.clipping_norm:g}; the sum receives Gaussian noise of "
            f"{noise * privacy.clipping_norm:.4g} (σ {noise:.4g} times the norm)"
        )
    else:
        protection = f"each {privacy.unit}'s gradient is {how} norm {privacy.clipping_norm:g}; there is no noise"
    quantity = f"Model updates: {_times(rounds, 'round')} of {_times(privacy.steps, 'step')}, {steps:,} in all{asked}"
    return _row(quantity, protection, PART if noise else UNBOUNDED)


def _own(study: StudyProtocol) -> str:
    """Return what an algorithm keeps at the clinics; "" of the others."""
    algorithm = algorithm_of(study.federation.algorithm)
    if study.federation.mode != "federated":
        return ""
    if study.evaluation.local_baseline:
        return "The model that the clinic trains alone, by as many noised steps again"
    if algorithm.personal_model:
        return "The clinic's own model, trained by as many noised steps again (histograms are of its scores)"
    return "The clinic's own normalisation layers" if algorithm.local_affine else ""


def _moments(study: StudyProtocol, privacy: PrivacySpec, noise: float) -> ReleasedQuantity:
    quantity = (
        f"Moments of {study.head_features} features of the images, for training and for validation, a class each: "
        "count, sum, second moment; 1 release, kept at both ends and given again to whoever asks"
    )
    averaged = f"a {privacy.unit}'s images of a class are averaged, features are shortened to norm 1"
    if noise:
        std = f"every number receives Gaussian noise of {math.sqrt(3) * noise:.4g} (σ {noise:.4g} times √3)"
        return _row(quantity, f"{averaged}; {std}", PART)
    return _row(quantity, f"{averaged}; there is no noise", UNBOUNDED)


def _histograms(
    study: StudyProtocol, privacy: PrivacySpec, evaluation: float | None, rounds: int
) -> Iterator[ReleasedQuantity]:
    # Of a run that stopped early, nobody has validated the last round's model.
    last = rounds if rounds == study.federation.rounds else rounds - 1
    times = sum(validates(study, number) for number in range(1, last + 1))
    if privacy.evaluation == "public":
        protection, cost = "exact: the study declares these images public", "not charged: nothing protects these images"
    elif evaluation:
        protection = f"every {privacy.unit} counts once; noise of σ {evaluation:.4g} times the most that one changes"
        cost = PART
    else:
        protection, cost = "there is no noise", UNBOUNDED
    yield _row(f"Histograms of the scores of the validation images: {_times(times, 'release')}", protection, cost)
    of_test = "1 release, with the last of validation"
    if study.federation.stop is not None:
        of_test = "1 release, or 2 where the last planned round's model is not the best; with one more of validation"
    yield _row(f"Histogram of the scores of the test images: {of_test}", protection, cost)
    if study.evaluation.local_baseline:
        yield _row(f"The same of the model that the clinic has trained alone: {of_test}", protection, cost)
    if attributes := noised_attributes(study):
        if evaluation:
            sigma = subgroups_multiplier(study, evaluation)
            protection = (
                f"every {privacy.unit} counts in one cell of each, whose cells are fixed; noise of σ {sigma:.4g} times "
                f"√{len(attributes)} times the most that one changes in a histogram"
            )
        yield _row(f"The same by {', '.join(attributes)}, a histogram a cell: {of_test}", protection, cost)


def _times(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _row(quantity: str, protection: str, cost: str) -> ReleasedQuantity:
    return ReleasedQuantity(quantity=quantity, protection=protection, cost=cost)
