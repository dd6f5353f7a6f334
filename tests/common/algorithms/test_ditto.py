"""Ditto's personal models lie between a clinic's own minimum and the global model, as λ says."""

import pytest

from tests.common.algorithms.toys import Point, bowl, federate, toy_study

STEEPNESS, MINIMA, IMAGES = (1.0, 3.0), (-1.0, 1.0), (40, 40)
LOSSES = [bowl(a, b) for a, b in zip(STEEPNESS, MINIMA, strict=True)]


@pytest.mark.parametrize("strength", [0.0, 0.5, 8.0])
def test_the_personal_model_is_the_minimum_of_loss_and_pull(strength: float) -> None:
    """Of a (v - b)² / 2 + λ (v - w)² / 2 that is (ab + λw) / (a + λ)."""
    study = toy_study("ditto", 60).with_changes("federation", proximal_mu=strength)
    ended = federate(study, Point(), LOSSES, IMAGES)
    model = float(ended.model["x"][0])
    for own, a, b in zip(ended.judged, STEEPNESS, MINIMA, strict=True):
        assert own["x"] == pytest.approx([(a * b + strength * model) / (a + strength)], abs=1e-3)
    plain = federate(toy_study("fedavg", 60), Point(), LOSSES, IMAGES)
    assert ended.model["x"] == plain.model["x"], "the global model is that of federated averaging, to the bit"


def test_who_has_never_trained_is_judged_by_the_global_model() -> None:
    ended = federate(toy_study("ditto", 3), Point(), LOSSES, IMAGES, asked=lambda _: [0])
    assert ended.judged[1]["x"] == ended.model["x"]
    assert ended.judged[0]["x"] != ended.model["x"]
    assert ended.kept[1] == {}
