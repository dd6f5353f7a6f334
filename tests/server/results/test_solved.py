"""The head of a study from its releases, and the file that says how it was solved."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from melfed.common.errors import RunError
from melfed.common.moments.noisy_moments import NoisyMoments, pooled
from melfed.common.moments.solvers import Wanted, solve
from melfed.common.study.protocol import StudyProtocol
from melfed.server.results.solved import (
    NAME,
    Terms,
    awaits_evaluation,
    mark_evaluated,
    public_head,
    read_solution,
    solve_run,
    write_solution,
)
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.releases import Release
from tests.common.moments.test_solvers import D, moments_of, units

STUDY = StudyProtocol.model_validate(
    {
        "name": "solved",
        "model": {"neck": D, "train": "head"},
        "training": {"positive_weight": 3.0},
        "federation": {"mode": "one_round", "rounds": 1},
        "privacy": {"unit": "patient", "epsilon": 3.0, "recipe": "manual"},
    }
)


def release_of(train: NoisyMoments) -> Release:
    return Release(train, NoisyMoments.empty(train.features), Counts(numbers={}), None, 0)


@pytest.fixture(scope="module")
def releases() -> dict[str, Release]:
    """Of three clinics, not in the order of their names."""
    return {name: release_of(moments_of(*units(seed, 300), 0.5, seed)) for seed, name in enumerate("cab")}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", STUDY)


def test_the_head_is_that_of_all_moments_by_the_studys_own_terms(releases: dict[str, Release]) -> None:
    solution = solve_run(STUDY, releases)
    expected = solve("logistic", pooled(each.train for each in releases.values()), Wanted(1.0, 3.0, None))
    assert np.array_equal(solution.head.weight, expected.weight)
    assert solution.head.bias == expected.bias
    assert solution.terms == Terms(solver="logistic", ridge=1.0, positive_weight=3.0, prevalence=None)
    assert solution.clinics == ("a", "b", "c")
    assert {name: array.shape for name, array in solution.tensors().items()} == {
        "head.weight": (1, 12),
        "head.bias": (1,),
    }


def test_it_is_the_same_in_whatever_order_the_releases_came(releases: dict[str, Release]) -> None:
    one, other = (solve_run(STUDY, dict(order)) for order in (releases.items(), reversed(releases.items())))
    assert one.head.weight.tobytes() == other.head.weight.tobytes()
    assert (one.head.bias, one.clinics) == (other.head.bias, other.clinics)


def test_other_terms_give_another_head(releases: dict[str, Release]) -> None:
    terms = Terms(solver="ridge", ridge=4.0, positive_weight=2.0, prevalence=0.02)
    solution = solve_run(STUDY, releases, terms)
    expected = solve("ridge", pooled(each.train for each in releases.values()), Wanted(4.0, 2.0, 0.02))
    assert np.array_equal(solution.head.weight, expected.weight)
    assert solution.head.bias == expected.bias
    assert solution.terms == terms


@pytest.mark.parametrize("wrong", [{"ridge": 0.0}, {"positive_weight": -1.0}, {"prevalence": 1.0}, {"lambda": 1.0}])
def test_terms_that_no_head_can_have_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Terms.model_validate({"solver": "ridge", **wrong})


def test_releases_that_tell_nothing_give_no_head() -> None:
    nothing = {"a": release_of(NoisyMoments.empty(3))}
    with pytest.raises(RunError, match=r"^study solved: no head can be solved: these moments tell nothing of the two"):
        solve_run(STUDY, nothing)


def test_a_head_awaits_its_evaluation_until_it_is_marked(folder: RunFolder, releases: dict[str, Release]) -> None:
    assert not awaits_evaluation(folder), "of no head"
    solution = solve_run(STUDY, releases, Terms(solver="discriminant", prevalence=0.1))
    write_solution(folder, solution)
    assert awaits_evaluation(folder)
    written = read_solution(folder)
    assert (written.terms, written.clinics, written.evaluated) == (solution.terms, ("a", "b", "c"), False)
    mark_evaluated(folder)
    assert not awaits_evaluation(folder)
    assert read_solution(folder) == written.model_copy(update={"evaluated": True})
    write_solution(folder, solution)
    assert awaits_evaluation(folder), "nobody has evaluated the one that was solved anew"


def test_a_head_that_rounds_began_at_awaits_nothing(tmp_path: Path, releases: dict[str, Release]) -> None:
    rounds = STUDY.with_changes("federation", mode="federated", start="one_round")
    folder = RunFolder.create(tmp_path / "run", rounds)
    write_solution(folder, solve_run(rounds, releases))
    assert not awaits_evaluation(folder)


def test_the_public_head_is_one_of_these_features(folder: RunFolder, releases: dict[str, Release]) -> None:
    known = np.arange(1, D + 1, dtype=np.float32)[None]
    public = public_head(STUDY, {"head.weight": known})
    assert public == tuple(range(1, D + 1))
    for other in ({}, {"head.weight": known[:, 1:]}, {"head.weight": np.zeros_like(known)}):
        assert public_head(STUDY, other) is None
    write_solution(folder, solve_run(STUDY, releases, public=public))
    assert read_solution(folder).public == public
    alone = solve_run(STUDY, releases)
    assert not np.array_equal(solve_run(STUDY, releases, public=public).head.weight, alone.head.weight)


def test_a_run_without_a_head_and_a_damaged_file_are_told_apart(folder: RunFolder) -> None:
    for ask in (read_solution, mark_evaluated):
        with pytest.raises(RunError, match=f"^{folder.path}: no head has been solved yet; go on with --resume"):
            ask(folder)
    path = folder.path / NAME
    for content in ("", "{}", '{"terms": {"solver": "ridge"}, "clinics": ["a"], "evaluated": "perhaps"}'):
        path.write_text(content)
        for ask in (read_solution, mark_evaluated, awaits_evaluation):
            with pytest.raises(RunError, match=f"^{path}: damaged .ValidationError.; bring it back from a backup$"):
                ask(folder)
        assert path.read_text() == content
