"""Pairs on the same test patients: who is compared with whom, by which test, and what is said of equal models."""

import dataclasses

import numpy as np
import pytest

from melfed.simulations.comparison.pairs import WITHIN, by_configuration, compare_all, rank_all
from melfed.simulations.comparison.statistics.differences import ENOUGH
from melfed.simulations.comparison.statistics.sources import by_source
from tests.simulations.comparison.made import BACKBONES, cell, result, results, scores, several_sources, without


def test_every_pair_is_compared_by_auroc_and_auprc() -> None:
    found = compare_all(results())
    assert [(p.metric, p.runs) for p in found.pairs] == 3 * [("auroc", 1), ("auprc", 1)]
    assert {p.difference.method for p in found.pairs if p.metric == "auroc"} == {"DeLong"}
    assert {p.difference.method for p in found.pairs if p.metric == "auprc"} == {"bootstrap"}
    best = [p for p in found.pairs if dict(p.second)["model.backbone"] == BACKBONES[2]]
    assert all(p.difference.value < 0 for p in best)
    assert any(p.shown for p in best)
    assert all(p.adjusted >= p.difference.p for p in found.pairs)
    assert (found.apart, found.few) == (0, "")


def test_within_sources_pairs_are_compared_too() -> None:
    made = several_sources(seeds=(0, 1))
    found = [pair for pair in compare_all(made).pairs if pair.metric == WITHIN]
    assert [(pair.runs, pair.difference.method) for pair in found] == 3 * [(2, "DeLong")]
    first, second = ([each.by_source.within.value for each in made[k : k + 2]] for k in (0, 2))
    assert found[0].difference.value == pytest.approx(np.mean(first) - np.mean(second))
    without_sources = [dataclasses.replace(each, by_source=None) for each in made[:2]]
    assert [p.metric for p in compare_all([*without_sources, *made[2:4]]).pairs] == ["auroc", "auprc"]


def test_a_model_that_learns_the_sources_is_no_better_within_them() -> None:
    plain = several_sources()[0]
    offsets = np.array([{"A": 0.0, "B": 0.0, "Z": -9.0}[source] for source in plain.by_source.of_images])
    shifted = dataclasses.replace(plain.scores, logits=plain.scores.logits + offsets)
    knows = dataclasses.replace(result(cell("vgg16"), shifted), by_source=by_source(shifted, plain.by_source.of_images))
    pairs = {pair.metric: pair for pair in compare_all([knows, plain]).pairs}
    assert pairs["auroc"].difference.value > 0.02
    assert (pairs[WITHIN].difference.value, pairs[WITHIN].difference.p) == (pytest.approx(0, abs=1e-12), 1)


def test_equal_models_differ_in_nothing() -> None:
    found = compare_all(results(seeds=(0, 1), same=True))
    assert [(p.difference.value, p.difference.p, p.adjusted, p.shown) for p in found.pairs] == 6 * [
        (0.0, 1.0, 1.0, False)
    ]


def test_few_melanomas_are_left_to_the_bootstrap_and_too_few_to_nobody() -> None:
    made = [result(cell(name), scores(k, n=60)) for k, name in enumerate(BACKBONES)]
    positive = {p for p, t in zip(made[0].scores.patients, made[0].scores.targets, strict=True) if t}
    assert 5 < len(positive) < ENOUGH
    assert {p.difference.method for p in compare_all(made).pairs} == {"bootstrap"}
    few = compare_all([result(cell(name), scores(k, n=9)) for k, name in enumerate(BACKBONES)])
    assert few.pairs == ()
    assert "patients of one class" in few.few


def test_other_test_patients_are_not_compared() -> None:
    made = [result(cell(name), scores(k, part=k)) for k, name in enumerate(BACKBONES)]
    found = compare_all(made)
    assert (found.pairs, found.apart, found.optimism) == ((), 3, None)


def test_another_truth_of_the_same_images_is_not_compared() -> None:
    first, second, _ = results()
    flipped = dataclasses.replace(second.scores, targets=~second.scores.targets)
    assert compare_all([first, dataclasses.replace(second, scores=flipped)]).apart == 1


def test_only_seeds_that_both_have_are_compared() -> None:
    made = results(seeds=(0, 1, 2))
    found = compare_all(made[:-1])
    assert {p.runs for p in found.pairs if dict(p.second)["model.backbone"] == BACKBONES[2]} == {2}
    assert {p.runs for p in found.pairs if dict(p.second)["model.backbone"] == BACKBONES[1]} == {3}


def test_the_best_of_equally_good_models_flatters_itself() -> None:
    alike = [result(cell(name, seed=0), scores(k, skill=1.0)) for k, name in enumerate(BACKBONES)]
    assert compare_all(alike).optimism > 0.002
    single = [result(cell(BACKBONES[0]), scores(0))]
    assert compare_all(single).optimism is None


def test_cells_without_scores_are_left_out() -> None:
    made = [*results(), without(cell("vgg16"))]
    assert len(by_configuration(made)) == 3
    assert len(compare_all(made).pairs) == 6


def test_ranks_are_over_seeds_where_there_are_three() -> None:
    found = rank_all(results(seeds=(0, 1, 2)))
    assert (found.blocks, found.ranks.blocks) == ("seeds", 3)
    assert np.argmin(found.ranks.mean) == 2


def test_ranks_of_one_seed_are_over_clinics() -> None:
    found = rank_all(results(clinics=4))
    assert (found.blocks, found.ranks.blocks) == ("clinics' test parts", 4)
    assert found.ranks.mean == pytest.approx((3.0, 2.0, 1.0))


def test_why_nothing_is_ranked_is_told() -> None:
    assert rank_all(results()).ranks is None
    assert "fewer than three seeds" in rank_all(results()).blocks
    assert rank_all(results()[:2]).blocks == "fewer than three configurations"
