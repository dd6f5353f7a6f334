"""The head of a study of one round, or that rounds begin at: solved from kept releases, and what it was solved for.

`RUN/solution.json` says how. As long as nobody asks for another head, it is what the study alone says: then leaving a
clinic out gives what the run would have given without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import Field, ValidationError

from melfed.common.errors import DataError, RunError
from melfed.common.files import write_text
from melfed.common.moments.head import Head
from melfed.common.moments.noisy_moments import pooled
from melfed.common.moments.solvers import PREVALENCES, SOLVERS, Wanted, solve
from melfed.common.study.protocol import Section, StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.releases import Release

NAME: Final = "solution.json"


class Terms(Section):
    """What a head is solved for.

    Attributes:
        solver: one of `melfed.common.moments.solvers.SOLVERS`.
        ridge: over the noise's own.
        positive_weight: of a positive in the loss.
        prevalence: share of positives for which probabilities hold; None: that of the clinics together.
    """

    solver: str
    ridge: float = Field(1.0, gt=0, le=1e6)
    positive_weight: float = Field(1.0, gt=0, le=1000)
    prevalence: float | None = Field(None, ge=PREVALENCES[0], le=PREVALENCES[1])

    @classmethod
    def of(cls, study: StudyProtocol) -> "Terms":
        """Return what a study is solved by, where nobody asks for anything else."""
        return cls(solver=next(iter(SOLVERS)), positive_weight=study.training.positive_weight)


class SolutionRecord(Section):
    """`RUN/solution.json`.

    Attributes:
        terms: what the head was solved for.
        clinics: whose releases it was solved from.
        public: the public run's head, which the solver knew; None: it has none for these features.
        evaluated: whether the clinics have evaluated this very head.
    """

    terms: Terms
    clinics: tuple[str, ...]
    public: tuple[float, ...] | None = None
    evaluated: bool = False


@dataclass(frozen=True)
class Solution:
    """A head, what it was solved for, from whose releases, and beside which public head."""

    head: Head
    terms: Terms
    clinics: tuple[str, ...]
    public: tuple[float, ...] | None = None

    def tensors(self) -> Tensors:
        """Return the head as the study's network holds it."""
        return self.head.tensors()


def public_head(study: StudyProtocol, initial: Tensors) -> tuple[float, ...] | None:
    """Return the head that a study's network has before its first round; None where it has none for these features."""
    weight = initial.get("head.weight")
    if weight is None or weight.shape != (1, study.head_features) or not weight.any():
        return None
    return tuple(weight[0].astype(np.float64).tolist())


def solve_run(
    study: StudyProtocol,
    releases: Mapping[str, Release],
    terms: Terms | None = None,
    public: tuple[float, ...] | None = None,
) -> Solution:
    """Return the head of a study from the releases of its clinics.

    It is a function of these alone: the same releases, in whatever order they came, give the same head to the last bit.

    Args:
        study: one that asks for moments.
        releases: by clinic, at least one.
        terms: what it is solved for; None: what the study says.
        public: as `public_head`; of a run that has a solution, what that says.

    Raises:
        RunError: the releases tell nothing of the two classes.
    """
    terms = terms or Terms.of(study)
    wanted = Wanted(terms.ridge, terms.positive_weight, terms.prevalence, public)
    try:
        head = solve(terms.solver, pooled(release.train for _, release in sorted(releases.items())), wanted)
    except DataError as error:
        raise RunError(f"study {study.name}: no head can be solved: {error}") from None
    return Solution(head, terms, tuple(sorted(releases)), public)


def write_solution(folder: RunFolder, solution: Solution) -> None:
    """Write `solution.json` of a head that nobody has evaluated yet. Raises StorageError."""
    _write(folder, SolutionRecord(terms=solution.terms, clinics=solution.clinics, public=solution.public))


def mark_evaluated(folder: RunFolder) -> None:
    """Write down that the clinics have evaluated a run's head. Raises RunError, StorageError."""
    _write(folder, read_solution(folder).model_copy(update={"evaluated": True}))


def _write(folder: RunFolder, record: SolutionRecord) -> None:
    write_text(folder.path / NAME, record.model_dump_json(indent=1) + "\n")


def awaits_evaluation(folder: RunFolder) -> bool:
    """Tell whether a run of one round has a head that its clinics have not evaluated. Raises RunError."""
    solved = folder.study().federation.mode == "one_round" and (folder.path / NAME).exists()
    return solved and not read_solution(folder).evaluated


def read_solution(folder: RunFolder) -> SolutionRecord:
    """Return what `write_solution` wrote. Raises RunError where the run has no solution yet, or the file is damaged."""
    path = folder.path / NAME
    try:
        return SolutionRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{folder.path}: no head has been solved yet; go on with --resume {folder.path}") from None
    except (OSError, ValidationError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}); bring it back from a backup") from None
