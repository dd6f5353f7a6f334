"""What a clinic agrees to when it approves a study, in plain words, and whether its policy would decline it anyway."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from melfed.client.config.clinic import ClinicConfig, TellSection
from melfed.client.config.policy import ClinicPolicy, check_study, check_tensors_may_leave
from melfed.client.worker.disclosure import in_full
from melfed.common.errors import DataError, DeclinedError, PolicyError, WeightsError
from melfed.common.study.evaluation_noise import final_evaluations, noised_attributes
from melfed.common.study.protocol import PrivacySpec, StudyProtocol, validates

_TRAINS = {
    "head": "the last layer alone; the rest stays as the weights below have it",
    "affine": "the last layer and the scale and shift of the normalisation layers",
    "last_block": "the last layer and the last block of the network",
    "full": "the whole network",
}
_UNITS = {
    "patient": "every patient: all images of a patient together",
    "lesion": "every lesion; a patient with several lesions is protected less than ε says",
    "image": "every image; a patient with several images is protected less than ε says",
}
_PLURALS = {"patient": "patients", "lesion": "lesions", "image": "images"}


@dataclass(frozen=True)
class Agreement:
    """What a study would do here.

    Attributes:
        lines: heading and text; several in a row may have the same heading.
        objection: why the policy would decline the study even when it is approved; None where it would not.
    """

    lines: tuple[tuple[str, str], ...]
    objection: str | None


def agreement(config: ClinicConfig, policy: ClinicPolicy, study: StudyProtocol) -> Agreement:
    """Return what the clinic agrees to with a study, and what its policy would say.

    Args:
        config: where weights are looked for.
        policy: the clinic's; its list of approved studies is of no account here.
        study: with nothing left open (`melfed.client.approval.approvals.study_to_approve`).

    Raises:
        StudyError: no noise is enough for the study's ε, so it cannot run anywhere.
    """
    lines = [
        ("study", f"{study.name}, digest {study.digest}"),
        ("positive", f"{', '.join(study.data.positive)} (images of {study.data.image_size} × {study.data.image_size})"),
        ("divided", f"{study.partition.validation:.0%} for validation, {study.partition.test:.0%} for testing"),
        ("trains", f"{_TRAINS[study.model.train]} ({study.model.backbone})"),
        ("starts from", _start(study)),
        ("rounds", _rounds(study)),
        *_protection(study),
        *_protected_here(config, study),
        *(("leaves here", text) for text in _leaves(study, config.file.tell)),
        ("stays here", "images, names and ids, and what the model says of any single patient"),
    ]
    return Agreement(tuple(lines), _objection(config, policy, study))


def _start(study: StudyProtocol) -> str:
    if not study.model.pretrained:
        return "random values"
    return f"weights with SHA-256 {study.model.weights_sha256}"


def _rounds(study: StudyProtocol) -> str:
    federation, privacy = study.federation, study.privacy
    hours = federation.deadline_seconds / 3600
    longest = f"{hours:.3g} h" if hours >= 1 else f"{federation.deadline_seconds:.0f} s"
    if federation.mode == "one_round":
        return f"one: moments of the images' features are released once, within {longest} of being asked"
    if privacy is None:
        work = f"{study.training.local_epochs:g} passes over the training images"
    else:
        work = f"{privacy.steps} step{'' if privacy.steps == 1 else 's'}"
    first = " after one release of moments, from which their start is solved" if federation.asks_for_moments else ""
    return f"up to {federation.rounds}{first}, each of {work} and {longest} at most; combined by {federation.algorithm}"


def _protection(study: StudyProtocol) -> Iterator[tuple[str, str]]:
    from melfed.client.privacy.plan import plan_of

    privacy = study.privacy
    if privacy is None:
        yield "protects", "nobody: no noise is added, and what leaves here may tell about single patients"
        return
    plan = plan_of(study)
    if not math.isfinite(plan.epsilon):
        yield "protects", "nobody: its noise multiplier σ is 0"
        return
    yield "protects", _UNITS[privacy.unit]
    yield "ε, δ", f"at most ε = {plan.epsilon:.4g} of this clinic's data a run, at δ = {privacy.delta:g}"
    noise = f"{plan.training.noise_multiplier:.4g} in each step, clipping norm C = {privacy.clipping_norm:g}"
    many = _PLURALS[privacy.unit]
    q = privacy.sampling_rate
    taken = f"all {many} (q = 1)" if q == 1 else f"{q:.3g} of the {many} in each (q)"
    if plan.moments is not None:
        yield "σ", f"{plan.moments.noise_multiplier:.4g} in the one release of moments, of all {many}"
    if plan.rounds:
        yield "σ", f"{noise}, {taken}"
    if plan.evaluation is not None:
        which = "the one evaluation" if plan.releases == 1 else f"each of {plan.releases} evaluations"
        yield "σ", f"{plan.evaluation.noise_multiplier:.4g} in {which}"
    if plan.subgroups is not None:
        told = ", ".join(noised_attributes(study))
        which = "the one release" if plan.subgroup_releases == 1 else f"each of {plan.subgroup_releases} releases"
        yield "σ", f"{plan.subgroups.noise_multiplier:.4g} in {which} of test {many} by {told}"
    if plan.baseline is not None:
        what = "in what is told of this clinic's own model, which takes as many steps again"
        yield "σ", f"{plan.baseline.noise_multiplier:.4g} {what}"


def _protected_here(config: ClinicConfig, study: StudyProtocol) -> Iterator[tuple[str, str]]:
    """Say what this clinic's table has of what is protected: once approved, nothing is refused for want of it."""
    from melfed.client.data.loading import study_records
    from melfed.client.privacy.accounting import delta_warning
    from melfed.client.privacy.units import units_of

    if study.privacy is None:
        return
    heading, many = "of them here", _PLURALS[study.privacy.unit]
    try:
        records = study_records(config, study)
    except (DataError, PolicyError) as error:
        yield heading, f"unknown: {error}"
        return
    names = units_of(records, study.privacy.unit)
    units = set(names) - {None}
    positive = {name for name, record in zip(names, records, strict=True) if record.target} - {None}
    trained = round(len(units) * (1 - study.partition.validation - study.partition.test))
    yield heading, f"{len(units)} {many} in this clinic's table, about {trained} of them to train on"
    if lacking := names.count(None):
        yield heading, f"{lacking} of {len(names)} images do not name theirs, and are left out"
    yield heading, f"{len(positive)} with a positive image, {len(units - positive)} without"
    if not positive or positive == units:
        yield heading, "one class only: this clinic would teach the network to say the same of everybody"
    if warning := delta_warning(study.privacy.delta, trained):
        yield heading, warning


def _leaves(study: StudyProtocol, tell: TellSection) -> Iterator[str]:
    from melfed.client.privacy.plan import plan_of

    privacy = study.privacy
    if study.federation.asks_for_moments:
        of = f"{study.head_features} features of the training and validation images"
        if study.model.metadata:
            of += ", age, sex and site among them"
        yield (
            f"once a run, moments of {of} (a class each: count, sum, products), with noise; this clinic keeps them and "
            "gives them again to whoever asks"
        )
    if study.federation.mode != "one_round":
        how = "made of clipped gradients with noise" if privacy else "without noise"
        yield f"after each round, the new values of what trains, {how}"
    times = sum(validates(study, number) for number in range(1, study.federation.rounds)) + 1
    often = "once" if times == 1 else f"{times} times"
    yield f"{often}, histograms of the scores on validation and test images, {_histograms(privacy)}"
    if attributes := noised_attributes(study):
        times = final_evaluations(study)
        often = "once" if times == 1 else f"up to {times} times"
        yield f"{often}, histograms of the scores on test images by {', '.join(attributes)}, {_histograms(privacy)}"
    if study.evaluation.local_baseline:
        yield f"once, a histogram of the scores of a model trained here alone, on test images, {_histograms(privacy)}"
    if privacy is None:
        yield "numbers of images, positives and groups, exact"
    else:
        noise = plan_of(study).counts.noise_multiplier
        counts = f"with noise of {noise:.3g}, or as clinic.yaml declares them (tell.units)"
        yield f"once a run, numbers of {_PLURALS[privacy.unit]} and of those with a positive image, {counts}"
        if privacy.evaluation == "public":
            yield "numbers of evaluation images, positives and groups, exact"
        yield "the ledger's total ε and the hash of its last row"
    yield "this clinic's name, the version of melfed, and the reason where it declines"
    yield "whether the data folder says that its pictures are synthetic"
    if tell.round_time:
        yield "how long a round may take here: a power of two of minutes, of synthetic images (tell.round_time)"


def _histograms(privacy: PrivacySpec | None) -> str:
    if privacy is None:
        return "exact"
    if privacy.evaluation == "noised":
        return "with noise"
    return "exact: the study declares these images public, and it chooses them, by its seed, among all that it takes"


def _objection(config: ClinicConfig, policy: ClinicPolicy, study: StudyProtocol) -> str | None:
    """Say why the policy would decline the study once it is approved."""
    from melfed.client.worker.guard import smallest_noise

    approved = policy.model_copy(update={"studies": "any"})
    try:
        check_study(approved, study, smallest_noise(study))
        if policy.tensors != ("*",):
            check_tensors_may_leave(policy, _tensor_names(config, study))
    except DeclinedError as error:
        return in_full(error)
    except WeightsError as error:
        return f"which tensors would leave cannot be told before the weights are here: {error}"
    return None


def _tensor_names(config: ClinicConfig, study: StudyProtocol) -> list[str]:
    from melfed.common.study.build import build_study_classifier, study_weights

    if study.model.pretrained:
        # Raises where they would have to be downloaded.
        study_weights(study, config.weights, download=False)
    model = build_study_classifier(study, config.weights)
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
