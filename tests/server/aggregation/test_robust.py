"""Robust aggregation against Flower's strategies, NumPy and SciPy; and against updates that are false."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg
from flwr.serverapp.strategy.multikrum import compute_distances, select_multikrum
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from melfed.common import messages
from melfed.common.aggregation import RULES, blocks
from melfed.common.aggregation.krum import squared_distances
from melfed.common.aggregation.trimmed_mean import trimmed
from melfed.common.errors import QuorumError, StudyError
from melfed.common.study.protocol import FederationSpec
from melfed.common.tensors import Tensors
from melfed.server.aggregation import robust
from melfed.server.aggregation.mean import RoundMean
from tests.server.fakes import INITIAL, Run, assert_equal, changed, clinics_of, grid_of, study_of
from tests.server.fakes import arrays as record_of

SHAPES = {"w": (7, 5), "b": (3,), "scalar": (), "none": (0, 2)}
ROBUST = sorted(RULES)
MOST = 10**9
"""Sum of weights."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 4)


def updates(n: int, seed: int = 0, shapes: dict[str, tuple[int, ...]] | None = None) -> list[Tensors]:
    rng = np.random.default_rng(seed)
    return [
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (shapes or SHAPES).items()}
        for _ in range(n)
    ]


def aggregated(kind: str, held: Sequence[Tensors], images: Sequence[float] | None = None, **spec) -> Tensors:
    mean = RoundMean(FederationSpec(robust=kind, **{"robust_byzantine": 1, **spec}), held[0], MOST)
    for index, update in enumerate(held):
        mean.add(f"clinic {index:03}", update, images[index] if images else 10)
    return mean.mean()


def flowers(held: Sequence[Tensors]) -> list[tuple[list[np.ndarray], int]]:
    return [(list(update.values()), 10) for update in held]


def assert_close(left: Tensors, right: Sequence[np.ndarray]) -> None:
    assert len(left) == len(right)
    for ours, theirs in zip(left.values(), right, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(3, 12), trim=st.floats(0, 0.49), seed=st.integers(0, 99))
def test_trimmed_mean_is_flowers_and_scipys(n: int, trim: float, seed: int) -> None:
    held = updates(n, seed)
    found = aggregated("trimmed_mean", held, robust_trim=trim)
    trim = (trimmed(n, trim) + 0.25) / n  # theirs may leave out none
    assert_close(found, [stats.trim_mean(np.stack([u[name] for u in held]), trim, axis=0) for name in SHAPES])
    solid = [{k: v for k, v in u.items() if k != "none"} for u in held]
    assert_close(aggregated("trimmed_mean", solid, robust_trim=trim), aggregate_trimmed_avg(flowers(solid), trim))


@pytest.mark.parametrize(
    ("n", "trim", "out"),
    [(3, 0.1, 1), (9, 0.1, 1), (10, 0.1, 1), (19, 0.1, 1), (20, 0.1, 2), (10, 0.3, 3), (100, 0.29, 29), (9, 0.0, 1)],
)
def test_what_a_trimmed_mean_leaves_out_is_the_fraction_but_at_least_one(n: int, trim: float, out: int) -> None:
    assert trimmed(n, trim) == out


@given(n=st.integers(3, 1000), trim=st.floats(0, 0.5, exclude_max=True))
def test_a_trimmed_mean_leaves_something_out_and_something_over(n: int, trim: float) -> None:
    cut = trimmed(n, trim)
    assert cut >= 1
    assert n - 2 * cut >= 1
    assert cut <= max(1, trim * n + 1e-6)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(3, 12), seed=st.integers(0, 99))
def test_median_is_flowers_and_numpys(n: int, seed: int) -> None:
    held = updates(n, seed)
    assert_close(aggregated("median", held), aggregate_median(flowers(held)))
    assert_close(aggregated("median", held), [np.median([u[name] for u in held], axis=0) for name in SHAPES])


@settings(deadline=None, max_examples=40)
@given(byzantine=st.integers(0, 3), more=st.integers(0, 5), seed=st.integers(0, 99))
def test_krum_and_multi_krum_choose_what_flowers_choose(byzantine: int, more: int, seed: int) -> None:
    n = 2 * byzantine + 3 + more
    held = updates(n, seed)
    images = [int(i) for i in np.random.default_rng(seed).integers(1, 100, n)]
    contents = [RecordDict({"arrays": ArrayRecord({name: Array(t) for name, t in u.items()})}) for u in held]
    (chosen,) = select_multikrum(contents, num_malicious_nodes=byzantine, num_nodes_to_select=1)
    found = aggregated("krum", held, images, robust_byzantine=byzantine)
    assert_equal(found, held[next(i for i, content in enumerate(contents) if content is chosen)])
    assert_close(found, aggregate_krum(flowers(held), byzantine, 0))
    found = aggregated("multi_krum", held, images, robust_byzantine=byzantine)
    assert_close(found, aggregate_krum(flowers(held), byzantine, n - byzantine))
    assert len(select_multikrum(contents, byzantine, n - byzantine)) == n - byzantine


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(ROBUST),
    images=st.lists(st.integers(1, 10**6), min_size=5, max_size=9),
    seed=st.integers(0, 99),
)
def test_in_a_robust_mean_clinics_weigh_the_same(kind: str, images: list[int], seed: int) -> None:
    held = updates(len(images), seed)
    assert_equal(aggregated(kind, held, images), aggregated(kind, held, [1] * len(images)))


def test_the_clinics_that_multi_krum_keeps_weigh_the_same_whatever_they_claim() -> None:
    held = [{"x": np.array([value], np.float32)} for value in (1, 2, 3, 4)]
    assert aggregated("multi_krum", held, [10, 1, 1, 1], robust_byzantine=0)["x"].tolist() == [2.5]


def test_distances_are_flowers() -> None:
    held = updates(6)
    theirs = compute_distances([ArrayRecord({name: Array(t) for name, t in u.items()}) for u in held])
    np.testing.assert_allclose(squared_distances(held), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ROBUST)
def test_the_size_of_blocks_and_the_order_of_updates_do_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = updates(7)
    images = [float(i) for i in range(1, 8)]
    expected = aggregated(kind, held, images)
    monkeypatch.setattr(blocks, "BLOCK", 1 << 16)
    assert_equal(aggregated(kind, held, images), expected)
    mean = RoundMean(FederationSpec(robust=kind), held[0], MOST)
    for index in (3, 1, 6, 0, 5, 2, 4):
        mean.add(f"clinic {index:03}", held[index], images[index])
    assert_equal(mean.mean(), expected)
    assert mean.weight == sum(images)


@pytest.mark.parametrize("kind", ["krum", "multi_krum"])
def test_a_tie_is_not_decided_by_who_came_first(kind: str) -> None:
    same = [dict(INITIAL) for _ in range(5)]
    means = []
    for order in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0)):
        mean = RoundMean(FederationSpec(robust=kind), INITIAL, MOST)
        for index in order:
            shifted = {name: t + np.float32(index * 10.0 ** -(index % 2)) for name, t in same[index].items()}
            mean.add(f"clinic {index}", shifted, 5 + index)
        means.append(mean.mean())
    assert_equal(*means)


FALSE = st.floats(-(2.0**127), 2.0**127, width=32)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(ROBUST),
    n=st.integers(3, 9),
    false=FALSE,
    place=st.integers(0, 8),
    images=st.integers(1, 10**7),
)
def test_one_false_update_leads_nobody_astray(kind: str, n: int, false: float, place: int, images: int) -> None:
    """Whatever it holds and however many images it claims, the result lies among the honest ones."""
    if "krum" in kind:
        n = max(n, 5)
        if abs(false) < 10:
            false += 100.0  # Krum may well choose what is as near to the honest as they are to each other
    place %= n
    held = updates(n, shapes={"w": (4, 3), "b": (3,)})
    held[place] = {name: np.full_like(t, false) for name, t in held[place].items()}
    claims = [10.0] * n
    claims[place] = float(images)
    found = aggregated(kind, held, claims)
    honest = [update for index, update in enumerate(held) if index != place]
    for name, tensor in found.items():
        values = np.stack([update[name] for update in honest])
        assert np.all(tensor >= values.min(axis=0) - 1e-6)
        assert np.all(tensor <= values.max(axis=0) + 1e-6)


@pytest.mark.parametrize("kind", ["krum", "multi_krum"])
def test_krum_does_not_go_on_with_fewer_updates_than_it_needs(kind: str) -> None:
    with pytest.raises(QuorumError, match=f"{kind} needs 7 updates, 6 came"):
        aggregated(kind, updates(6), robust_byzantine=2)
    aggregated(kind, updates(7), robust_byzantine=2)


@pytest.mark.parametrize("kind", ["trimmed_mean", "median"])
def test_of_two_updates_there_is_no_robust_mean(kind: str) -> None:
    with pytest.raises(QuorumError, match=f"{kind} needs 3 updates, 2 came"):
        aggregated(kind, updates(2))


@settings(deadline=None)
@given(
    kind=st.sampled_from(["none", *ROBUST]),
    byzantine=st.integers(0, 5),
    cohort=st.floats(0, 1, exclude_min=True),
    clinics=st.integers(1, 40),
)
def test_who_takes_part_is_enough_for_a_round_or_nobody_begins(
    kind: str, byzantine: int, cohort: float, clinics: int
) -> None:
    spec = FederationSpec(robust=kind, robust_byzantine=byzantine, cohort=cohort)
    needed = robust.replies_needed(spec)
    try:
        least = robust.clinics_needed(spec, clinics)
    except StudyError as error:
        assert robust.cohort_size(spec, clinics) < needed
        advice = re.search(r"set federation.cohort to ([\d.]+) or more", str(error))
        assert bool(advice) == (clinics >= needed)
        if advice:
            robust.clinics_needed(spec.model_copy(update={"cohort": float(advice[1])}), clinics)
        if fewer := re.search(r"or federation.robust_byzantine to (\d+)", str(error)):
            robust.clinics_needed(spec.model_copy(update={"robust_byzantine": int(fewer[1])}), clinics)
    else:
        assert all(robust.cohort_size(spec, number) >= needed for number in range(least, clinics + 1))
        assert least == 1 or robust.cohort_size(spec, least - 1) < needed


def test_nothing_to_aggregate_is_no_quorum() -> None:
    for kind in ("none", *ROBUST):
        with pytest.raises(QuorumError):
            RoundMean(FederationSpec(robust=kind), INITIAL, MOST).mean()


def norm(update: Tensors, model: Tensors) -> float:
    return float(np.linalg.norm(np.concatenate([(update[n].astype(float) - model[n]).ravel() for n in model])))


def test_the_norm_of_an_update_is_that_of_its_change() -> None:
    model, update = updates(2)
    assert robust.update_norm(update, model) == pytest.approx(norm(update, model))
    assert robust.update_norm(model, model) == 0
    huge = {name: np.full_like(t, 3e38) for name, t in model.items()}
    assert robust.update_norm(huge, model) == pytest.approx(norm(huge, model)), "squares do not overflow"


@settings(deadline=None, max_examples=40)
@given(longest=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_a_clipped_update_is_no_longer_than_allowed_and_points_the_same_way(longest: float, seed: int) -> None:
    model, update = updates(2, seed)
    found = robust.clipped(update, model, longest)
    before = norm(update, model)
    if before <= longest:
        assert found is update, "not a bit of it has changed"
        return
    assert norm(found, model) == pytest.approx(longest, rel=1e-3)
    for name in SHAPES:
        expected = model[name] + (update[name].astype(float) - model[name]) * (longest / before)
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_a_run_clips_each_update_before_the_mean(tmp_path: Path) -> None:
    study = study_of(2, rounds=1, clip_update_norm=0.5)
    clinics = clinics_of(study, "ab")
    model = Run(tmp_path / "run", study, grid_of(clinics)).conduct().models[""]
    changes = []
    for clinic in clinics:
        trained = clinic.trained(INITIAL, 1)
        share = 0.5 / norm(trained, INITIAL)
        changes.append({n: (trained[n].astype(float) - INITIAL[n]) * share * clinic.images for n in INITIAL})
    for name, tensor in model.items():
        expected = INITIAL[name] + sum(change[name] for change in changes) / sum(c.images for c in clinics)
        np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ROBUST)
def test_a_run_aggregates_as_its_study_says_and_a_false_update_changes_little(tmp_path: Path, kind: str) -> None:
    study = study_of(5, rounds=1, robust=kind, robust_trim=0.2)
    clinics = clinics_of(study, "abcde")
    clinics[3].tamper = {
        messages.TRAIN: changed(tensors=lambda c: record_of({n: np.full_like(t, 1e6) for n, t in INITIAL.items()}))
    }
    model = Run(tmp_path / "run", study, grid_of(clinics)).conduct().models[""]
    assert max(np.abs(tensor).max() for tensor in model.values()) < 10
    held = [clinic.trained(INITIAL, 1) for clinic in clinics]
    held[3] = {name: np.full_like(t, 1e6) for name, t in INITIAL.items()}
    assert_equal(model, aggregated(kind, held, [clinic.images for clinic in clinics], robust_trim=0.2))


def test_krum_needs_its_clinics_from_the_start(tmp_path: Path) -> None:
    study = study_of(3, rounds=1, robust="krum", quorum=0.1)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)))
    with pytest.raises(StudyError, match="krum needs 5 updates a round, and of 3 clinics a round asks 3; take 5"):
        run.conduct()
    assert not [clinic.asked for clinic in run.grid.clinics.values() if clinic.asked]


def test_krum_needs_its_clinics_in_each_rounds_cohort(tmp_path: Path) -> None:
    """Nobody trains, and is charged for it, in a round that can never have enough updates."""
    study = study_of(8, rounds=1, robust="krum", cohort=0.5)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study, "abcdefgh")))
    with pytest.raises(StudyError, match=r"of 8 clinics a round asks 4; set federation\.cohort to 0\.63 or more"):
        run.conduct()
    # All eight would do, the six that have come do not: a round would ask four of them.
    study = study_of(8, rounds=1, robust="krum", cohort=0.7, quorum=0.5, deadline_seconds=0.2)
    late = Run(tmp_path / "late", study, grid_of(clinics_of(study, "abcdef")), expected=8)
    with pytest.raises(QuorumError, match="6 of 8 clinics answered, 7 are needed"):
        late.conduct()
    asked = [clinic.asked for run in (run, late) for clinic in run.grid.clinics.values()]
    assert not [kind for each in asked for kind, _ in each if kind == messages.TRAIN]
    Run(tmp_path / "seven", study, grid_of(clinics_of(study, "abcdefg")), expected=8).conduct()


def test_an_update_that_is_too_long_is_refused_with_its_reason(tmp_path: Path) -> None:
    study = study_of(rounds=1, quorum=0.5, largest_update_norm=50.0)
    clinics = clinics_of(study)
    clinics[2].tamper = {
        messages.TRAIN: changed(tensors=lambda c: record_of({n: t + np.float32(20) for n, t in INITIAL.items()}))
    }
    run = Run(tmp_path / "run", study, grid_of(clinics))
    outcome = run.conduct()
    (event,) = run.events("round")
    assert event["failed"] == {"c": "its update has norm 77.46, more than federation.largest_update_norm (50)"}
    others = Run(tmp_path / "others", study, grid_of(clinics_of(study, "ab"))).conduct()
    assert_equal(outcome.models[""], others.models[""])


def test_a_clinic_that_claims_more_than_the_study_allows_is_not_let_in(tmp_path: Path) -> None:
    study = study_of(rounds=1, quorum=0.5, largest_clinic=35)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)))
    run.conduct()
    assert run.events("round")[0]["failed"] == {"c": "clinic c counts 40 train images"}
