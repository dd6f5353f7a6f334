"""How starts are judged: private heads with as much noise as a federation has, and sources that are told."""

import math

import numpy as np
import pytest

from melfed.common.data.dataset import Images
from melfed.common.study.moments_noise import learning_mu
from melfed.common.study.protocol import PrivacySpec
from melfed.simulations.benchmarks.private_heads import Images as Rows
from melfed.simulations.benchmarks.private_heads import Way
from melfed.simulations.benchmarks.public_start import judging
from melfed.simulations.benchmarks.public_start.judging import (
    Federation,
    auroc,
    private_auroc,
    shortened,
    source_told,
)
from melfed.simulations.benchmarks.public_start.necks import FittedNeck
from melfed.simulations.benchmarks.public_start.training import Start
from tests.simulations.benchmarks.public_start.records import features_of, of_sources

RECORDS = of_sources([("A", 90, 60)])
POOLED = (features_of(RECORDS, 4) / 4).astype(np.float32)
NECK = FittedNeck(POOLED.mean(axis=0).astype(float), np.eye(4), np.zeros(5))


def test_a_federation_has_the_room_of_its_epsilon() -> None:
    room = Federation(500, 3, 2.0).room(16)
    spec = PrivacySpec(unit="lesion", epsilon=2.0, delta=1e-5, evaluation="public")
    assert (room.features, room.patients, room.clinics, room.mu) == (16, 500, 3, learning_mu(spec))
    assert Federation(500, 3, math.inf).room(16) == Federation(500, 3, 8.0).room(16)
    assert [str(Federation(9, 1, epsilon)) for epsilon in (0.5, math.inf)] == ["9 at 0.5", "9 at ∞"]


def test_a_long_head_is_shortened_and_a_short_one_is_not() -> None:
    long, short = np.array([3.0, 4.0, 2.0]), np.array([0.3, 0.4, 2.0])
    assert shortened(long) == pytest.approx(long * 0.5 / (5 / math.sqrt(2)))
    assert shortened(short).tolist() == short.tolist()
    assert shortened(np.zeros(3)).tolist() == [0, 0, 0]


def test_auroc_of_one_class_is_not_a_number() -> None:
    assert auroc(np.array([0, 1, 1]), np.array([0.1, 0.2, 0.05])) == 0.5
    assert math.isnan(auroc(np.zeros(3), np.arange(3.0)))


def test_noise_is_that_of_the_federation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def note(clinics: list[Rows], start: np.ndarray, _steps: object, way: Way, *_: object) -> np.ndarray:
        seen.append(way.mu * len(clinics[0].starts))
        return start

    monkeypatch.setattr(judging, "trained", note)
    private_auroc(NECK, POOLED, RECORDS, Federation(800, 4, 3.0), 1.0, 2, 0)
    mu = learning_mu(PrivacySpec(unit="lesion", epsilon=3.0, delta=1e-5, evaluation="public"))
    assert seen == pytest.approx([mu * 800 * 2] * 6), "three parts, two draws"


def test_a_private_head_learns_and_noise_costs() -> None:
    free, some, drowned = (
        private_auroc(NECK, POOLED, RECORDS, Federation(patients, 4, epsilon), 1.0, 4, 0)
        for patients, epsilon in ((1500, math.inf), (1500, 3.0), (10, 0.2))
    )
    assert free > 0.7
    assert abs(some - free) < 0.05
    assert drowned < 0.65


def test_sources_are_told_where_features_differ_and_only_there() -> None:
    records = of_sources([("A", 100, 20), ("B", 100, 20), ("C", 60, 20)])
    images = Images(tuple(records), None)  # type: ignore[arg-type]
    left_out = np.array([each.source == "C" for each in records])
    trained = ~left_out & (np.arange(len(records)) % 4 != 0)

    def told(pooled: np.ndarray) -> judging.Told:
        start = Start(pooled.astype(np.float32), np.zeros(len(records)), trained, left_out)
        return source_told(FittedNeck(np.zeros(12), np.eye(12), np.zeros(13)), start, images)

    differing, equal = told(features_of(records)), told(np.random.default_rng(0).normal(size=(len(records), 12)))
    assert differing.among > 0.95
    assert differing.left_out > 0.95
    assert differing.chance == equal.chance == 0.5
    assert abs(equal.among - 0.5) < 0.15
    assert abs(equal.left_out - 0.5) < 0.15
