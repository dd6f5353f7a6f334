"""The clinic's policy: what a study may ask of this clinic's patients, whoever sends it.

It is the `policy` section of the clinic's own `clinic.yaml` (`client/clinic.example.yaml` explains each key). A request
beyond it is declined with the reason, never weakened until it fits: a study that quietly trained with other settings
than its digest says would be another study.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from melfed.client.ledger.budget import Budget
from melfed.common.errors import BudgetError, DeclinedError
from melfed.common.metrics.score_bins import MOST_BINS
from melfed.common.study.evaluation_noise import noised_attributes
from melfed.common.study.protocol import CURRENT, Digest, PrivacySpec, Section, StudyProtocol

STRENGTH = {"image": 0, "lesion": 1, "patient": 2}
"""Units, the weaker the lower: protecting all images of a patient protects every lesion and every image of it."""

DEFAULT_DELTA = 1e-5


class ClinicPolicy(Section):
    """Limits that the clinic sets to every study. All are inclusive: a study that asks for the limit itself passes."""

    epsilon: float = Field(gt=0, le=1e4, description="largest ε of this clinic's data over all studies together")
    delta: float = Field(DEFAULT_DELTA, gt=0, lt=1, description="largest δ; the ε of all studies is taken at this δ")
    noise_multiplier: float = Field(0.5, gt=0, le=1e6, description="smallest noise multiplier σ")
    clipping_norm: float = Field(10.0, gt=0, le=1e6, description="largest clipping norm C")
    smallest_clipping_norm: float = Field(1e-3, gt=0, le=1e6, description="smallest clipping norm C")
    unit: Literal["patient", "lesion", "image"] = Field("patient", description="weakest unit that may be protected")
    studies: Literal["any"] | tuple[Digest, ...] = Field(
        (), description="a list of the digests of the approved studies (64 hexadecimal digits each), or 'any'"
    )
    runs: int = Field(
        1,
        ge=1,
        le=1000,
        description="how often each study may run that `studies` lets in; an approval states that of its own study",
    )
    tensors: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("*",), min_length=1, description="patterns of the names of tensors that may leave; * stands for anything"
    )
    weights: Literal["any"] | tuple[Digest, ...] = Field(
        "any",
        description="SHA-256 of the weights files that a study may start from, or 'any' of those in the weights folder",
    )
    positive_weight: float = Field(
        100.0, ge=1, le=1000, description="largest weight of a positive in the loss; 1 over it is the smallest"
    )
    views: int = Field(16, ge=1, le=64, description="most augmented views of an image: time and memory")
    image_size: int = Field(512, ge=32, le=1024, description="largest side of the images, pixels: time and memory")
    score_bins: int = Field(
        MOST_BINS,
        ge=16,
        le=MOST_BINS,
        description="most bins of a histogram of scores that leaves without noise, as a study without privacy or with "
        "public evaluation images has it; of fewer images than bins, each can have a bin of its own",
    )
    public_evaluation: bool = Field(
        False,
        description="whether a study may declare the images public that it evaluates on, and add no noise; it chooses "
        "them, so that over several studies all images of the clinic may be among them",
    )
    non_private: bool = Field(
        False, description="whether studies without a privacy section may train; no ε is counted for them"
    )
    exact_subgroups: bool = Field(
        False,
        description="whether scores that leave without noise may be told by age, sex, site or skin type; with noise "
        "they are within the study's ε, and need no leave",
    )
    models: Literal["approved", "any", "none"] = Field(
        "approved",
        description="which finished models are kept here: approved studies', any study's of this consortium, or none",
    )

    def approved_as(self, name: str) -> tuple[Digest, ...]:  # noqa: ARG002 (a policy alone knows digests, and no names)
        """Return the digests under which studies of a name are approved, the newest last, as far as may be told."""
        return ()

    @model_validator(mode="after")
    def _each_study_once(self) -> Self:
        if self.studies != "any" and len(set(self.studies)) < len(self.studies):
            raise ValueError("a digest stands twice in studies")
        if self.smallest_clipping_norm > self.clipping_norm:
            raise ValueError(
                f"smallest_clipping_norm is {self.smallest_clipping_norm:g}, above clipping_norm {self.clipping_norm:g}"
            )
        return self


def check_study(policy: ClinicPolicy, study: StudyProtocol, noise_multiplier: float) -> None:
    """Check that a study stays within the policy; before anything is trained or charged.

    What the study states is checked here. What its training spends in the end is checked by the ledger, round by round,
    against `budget`; a study that states σ in place of ε is bounded by that alone.

    Args:
        policy: of this clinic.
        study: as it arrived.
        noise_multiplier: the smallest σ that the study will be run with here, training and evaluation alike: the one
            that it states, or the one that follows from its ε. Of no account for a study without a privacy section.

    Raises:
        DeclinedError: in one line, everything that the study asks beyond the policy, and what the policy allows. How
            much ε that is, a BudgetError's figures say.

    >>> from melfed.common.study.protocol import StudyProtocol
    >>> policy = ClinicPolicy(epsilon=3.0, studies="any")
    >>> private = StudyProtocol(privacy=PrivacySpec(unit="patient", epsilon=2.0))
    >>> check_study(policy, private, noise_multiplier=1.2)
    >>> check_study(policy, StudyProtocol(name="bare"), noise_multiplier=0.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    melfed.common.errors.DeclinedError: study bare is declined: it has no privacy section, and this clinic trains ...
    """
    objections = list(_objections(policy, study, noise_multiplier))
    if not objections:
        return
    text = f"study {study.name} is declined: {'; '.join(objections)}"
    if _too_much_epsilon(policy, study) is not None:
        raise BudgetError(text, f"at most ε {_exact(policy.epsilon)} is allowed for this clinic's data")
    raise DeclinedError(text)


def check_tensors_may_leave(policy: ClinicPolicy, names: Iterable[str]) -> None:
    """Check that tensors of these names may leave the clinic; before a round is charged that would produce them.

    Raises:
        DeclinedError: names the first tensor that may not leave, and how many there are.
    """
    kept = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in policy.tensors)]
    if kept:
        patterns = ", ".join(policy.tensors)
        raise DeclinedError(
            f"{len(kept)} tensors may not leave this clinic, {kept[0]!r} among them; its policy allows {patterns}"
        )


def budget(policy: ClinicPolicy | None, study: StudyProtocol) -> Budget:
    """Return what all charges of one ledger together may reach.

    With a policy this is the clinic's own (ε, δ), whatever the study's is: the ledger adds up all studies of the data,
    so the smaller of the two would let the first study use up what others may still have. The study's ε is a promise
    about its own charges; its σ follows from it, and `check_study` sees to it that it is not above the policy's.

    Without a policy (a simulation) the study's promise is the only bound. There the ledger is that of one run, so that
    its own charges and all charges are the same. `epsilon` is None, no bound, where the study states σ or is not
    private.
    """
    if policy is not None:
        return Budget(policy.epsilon, policy.delta)
    if study.privacy is None:
        return Budget(None, DEFAULT_DELTA)
    return Budget(study.privacy.epsilon, study.privacy.delta)


def _objections(policy: ClinicPolicy, study: StudyProtocol, noise_multiplier: float) -> Iterator[str]:
    """Yield what a study asks beyond the policy, one phrase each."""
    if not _is_approved(policy, study):
        known = policy.approved_as(study.name)
        other = f"; of this name {known[-1]} is, so it was changed after that" if known else ""
        yield f"it is not approved here (digest {study.digest}){other}"
    if (asked := _too_much_epsilon(policy, study)) is not None:
        yield f"it asks for ε {_exact(asked)}, more than this clinic allows for its data"
    if study.protocol != CURRENT:
        yield f"it is of protocol {study.protocol}, and this clinic trains by protocol {CURRENT} alone"
    yield from _bounds(policy, study)
    if study.privacy is not None:
        yield from _privacy_objections(policy, study.privacy, noise_multiplier)
    elif not policy.non_private:
        yield "it has no privacy section, and this clinic trains nothing without one"


def _bounds(policy: ClinicPolicy, study: StudyProtocol) -> Iterator[str]:
    """Yield what a study asks beyond the policy whether or not it is private."""
    # Each comparison is written so that a value that is not a number fails it.
    size, weight, weights = study.data.image_size, study.training.positive_weight, study.model.weights_sha256
    if not size <= policy.image_size:
        yield f"its images have {size} pixels a side, this clinic allows at most {policy.image_size}"
    if not 1 / policy.positive_weight <= weight <= policy.positive_weight:
        yield (
            f"it weighs a positive by {_exact(weight)}, this clinic allows {1 / policy.positive_weight:g} to "
            f"{policy.positive_weight:g}"
        )
    exact = study.privacy is None or study.privacy.evaluation == "public"
    if exact and not policy.exact_subgroups and (attributes := ", ".join(noised_attributes(study))):
        yield f"it tells scores by {attributes} without noise, and this clinic's are not told so"
    if study.model.pretrained and policy.weights != "any" and weights not in policy.weights:
        yield f"it starts from weights {str(weights)[:12]}, which are not among those that this clinic allows"


def _privacy_objections(policy: ClinicPolicy, asked: PrivacySpec, noise_multiplier: float) -> Iterator[str]:
    # Each comparison is written so that a value that is not a number fails it.
    if not STRENGTH[asked.unit] >= STRENGTH[policy.unit]:
        yield f"it protects each {asked.unit}, this clinic allows no unit weaker than the {policy.unit}"
    if not asked.delta <= policy.delta:
        yield f"it asks for δ {_exact(asked.delta)}, this clinic allows at most {_exact(policy.delta)}"
    if not noise_multiplier >= policy.noise_multiplier:
        yield (
            f"its noise multiplier σ is {_exact(noise_multiplier)}, "
            f"this clinic allows no less than {_exact(policy.noise_multiplier)}"
        )
    if not asked.clipping_norm <= policy.clipping_norm:
        yield (
            f"its clipping norm C is {_exact(asked.clipping_norm)}, "
            f"this clinic allows at most {_exact(policy.clipping_norm)}"
        )
    if not asked.clipping_norm >= policy.smallest_clipping_norm:
        yield (
            f"its clipping norm C is {_exact(asked.clipping_norm)}, "
            f"this clinic allows no less than {_exact(policy.smallest_clipping_norm)}"
        )
    if not asked.views <= policy.views:
        yield f"it takes {asked.views} augmented views, this clinic allows at most {policy.views}"
    if asked.evaluation == "public" and not policy.public_evaluation:
        yield "it declares the images public that it evaluates on, and this clinic's are not"


def _is_approved(policy: ClinicPolicy, study: StudyProtocol) -> bool:
    return policy.studies == "any" or study.digest in policy.studies


def _too_much_epsilon(policy: ClinicPolicy, study: StudyProtocol) -> float | None:
    """Return the ε that a study states where the clinic allows less; of one that is not approved nobody learns that.

    Else studies that nobody has approved would find the clinic's limit by asking for more and more.
    """
    asked = study.privacy.epsilon if study.privacy is not None and _is_approved(policy, study) else None
    return None if asked is None or asked <= policy.epsilon else asked


def _exact(value: float) -> str:
    """Return a number shortly, but never so shortly that it would look like another one."""
    return short if float(short := f"{value:g}") == value else repr(value)
