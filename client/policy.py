"""The clinic's policy: what a study may ask of this clinic's patients, whoever sends it.

It is the `policy` section of the clinic's own `clinic.yaml` (`client/clinic.example.yaml` explains each key). A request
beyond it is declined with the reason, never weakened until it fits: a study that quietly trained with other settings
than its digest says would be another study.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from client.privacy.ledger import Budget
from common.data.records import LesionRecord
from common.errors import DataError, DeclinedError
from common.protocol import Digest, PrivacySpec, Section, StudyProtocol

STRENGTH = {"image": 0, "lesion": 1, "patient": 2}
"""Units, the weaker the lower: protecting all images of a patient protects every lesion and every image of it."""

DEFAULT_DELTA = 1e-5


class ClinicPolicy(Section):
    """Limits that the clinic sets to every study. All are inclusive: a study that asks for the limit itself passes."""

    epsilon: float = Field(gt=0, le=1e4, description="largest ε of this clinic's data over all studies together")
    delta: float = Field(DEFAULT_DELTA, gt=0, lt=1, description="largest δ; the ε of all studies is taken at this δ")
    noise_multiplier: float = Field(0.5, gt=0, le=1e6, description="smallest noise multiplier σ")
    clipping_norm: float = Field(10.0, gt=0, le=1e6, description="largest clipping norm C")
    unit: Literal["patient", "lesion", "image"] = Field("patient", description="weakest unit that may be protected")
    studies: Literal["any"] | tuple[Digest, ...] = Field(
        (), description="a list of the digests of the approved studies (64 hexadecimal digits each), or 'any'"
    )
    tensors: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        ("*",), min_length=1, description="patterns of the names of tensors that may leave; * stands for anything"
    )
    smallest_cell: int = Field(10, ge=1, le=10_000, description="counts leave as multiples of no less than this")
    public_evaluation: bool = Field(
        False,
        description="whether a study may declare the images public that it evaluates on, and add no noise; it chooses "
        "them, so that over several studies all images of the clinic may be among them",
    )
    non_private: bool = Field(
        False, description="whether studies without a privacy section may train; no ε is counted for them"
    )

    @model_validator(mode="after")
    def _each_study_once(self) -> Self:
        if self.studies != "any" and len(set(self.studies)) < len(self.studies):
            raise ValueError("a digest stands twice in studies")
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
        DeclinedError: in one line, everything that the study asks beyond the policy, and what the policy allows.
    """
    objections = list(_objections(policy, study, noise_multiplier))
    if objections:
        raise DeclinedError(f"study {study.name} is declined: {'; '.join(objections)}")


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


def check_counts(policy: ClinicPolicy, counts: Mapping[str, int], cell: int) -> None:
    """Check counts that are about to leave without noise.

    Args:
        policy: of this clinic.
        counts: by name, rounded already.
        cell: what they were rounded to multiples of.

    Raises:
        DeclinedError: the cell is smaller than the policy's, or a count is no multiple of the cell.
    """
    if cell < policy.smallest_cell:
        raise DeclinedError(_cell_objection("counts are rounded", cell, policy))
    exact = [name for name, count in counts.items() if count % cell]
    if exact:
        # Without the count itself: it is what must not leave, and the message does.
        raise DeclinedError(f"count {exact[0]} may not leave this clinic: it is no multiple of {cell}")


def check_patient_ids(policy: ClinicPolicy, records: Sequence[LesionRecord]) -> None:
    """Check, before any study comes, that a policy that demands patients as the unit has data that tell patients apart.

    Raises:
        DataError: images have no patient id, so that no study could be private by the policy.
    """
    missing = sum(record.patient_id is None for record in records)
    if policy.unit == "patient" and missing:
        raise DataError(
            f"{missing} of {len(records)} images have no patient id, but the policy's unit is patient: add the ids, "
            "leave these images out, or set policy.unit to lesion if those responsible for data protection agree"
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
    if policy.studies != "any" and study.digest not in policy.studies:
        yield f"it is not approved here (digest {study.digest})"
    if study.privacy is not None:
        yield from _privacy_objections(policy, study.privacy, noise_multiplier)
    elif not policy.non_private:
        yield "it has no privacy section, and this clinic trains nothing without one"


def _privacy_objections(policy: ClinicPolicy, asked: PrivacySpec, noise_multiplier: float) -> Iterator[str]:
    # Each comparison is written so that a value that is not a number fails it.
    if not STRENGTH[asked.unit] >= STRENGTH[policy.unit]:
        yield f"it protects each {asked.unit}, this clinic allows no unit weaker than the {policy.unit}"
    if asked.epsilon is not None and not asked.epsilon <= policy.epsilon:
        yield f"it asks for ε {_exact(asked.epsilon)}, this clinic allows at most {_exact(policy.epsilon)} for its data"
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
    if asked.evaluation == "public" and not policy.public_evaluation:
        yield "it declares the images public that it evaluates on, and this clinic's are not"
    if not asked.smallest_cell >= policy.smallest_cell:
        yield _cell_objection("it rounds counts", asked.smallest_cell, policy)


def _cell_objection(who: str, cell: int, policy: ClinicPolicy) -> str:
    return f"{who} to multiples of {cell}, this clinic allows no less than {policy.smallest_cell}"


def _exact(value: float) -> str:
    """Return a number shortly, but never so shortly that it would look like another one."""
    return short if float(short := f"{value:g}") == value else repr(value)
