"""What a run's training took, and which keys had no effect, in words."""

import pytest

from melfed.common.study.protocol import StudyProtocol
from melfed.server.report.steps import idle, steps
from melfed.server.runs.soundness import ALL
from melfed.server.runs.summary import RunSummary
from tests.server.fake_run import FakeRun


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    run = FakeRun(clinics=("a",), images=(200,), melanoma_rates=(0.3,), rounds=1)
    return run.write(tmp_path_factory.mktemp("runs") / "run").summary()


def study(warmup: int = 0, epochs: float = 1, rounds: int = 4, **sections) -> StudyProtocol:
    training = {"warmup_steps": warmup, "local_epochs": epochs}
    return StudyProtocol.model_validate({"training": training, "federation": {"rounds": rounds}, **sections})


@pytest.mark.parametrize(
    ("planned", "mode", "warmup", "said"),
    [
        ({"a": 1}, "federated", 0, "1 step at each clinic over the whole run, as planned."),
        ({"a": 1200, "b": 1200}, "federated", 0, "1,200 steps at each clinic over the whole run, as planned."),
        (
            {"a": 40, "b": 120},
            "local",
            9,
            "40 to 120 steps at each clinic over the whole run, as planned; the learning rate rises over the first 9.",
        ),
        ({ALL: 300}, "central", 0, "300 steps on the images of all clinics over the whole run, as planned."),
    ],
)
def test_steps_are_those_of_each_clinic_or_of_all_images(
    summary: RunSummary, planned: dict[str, int], mode: str, warmup: int, said: str
) -> None:
    run = summary.model_copy(update={"steps": planned, "mode": mode})
    found = dict(steps(run, study(warmup)))
    assert found["Optimiser steps"] == said


@pytest.mark.parametrize(
    ("epochs", "rounds", "said"),
    [(1, 1, "seen once, in 1 round."), (0.5, 5, "seen 2.5 times, in 5 rounds."), (2, 4, "seen 8 times, in 4 rounds.")],
)
def test_the_budget_is_how_often_an_image_is_seen(summary: RunSummary, epochs: float, rounds: int, said: str) -> None:
    run = summary.model_copy(update={"steps": {"a": 3}})
    assert f"Each training image is {said}" in dict(steps(run, study(0, epochs, rounds)))["Budget"]


def test_a_private_run_has_no_passes_and_one_whose_summary_is_silent_no_facts(summary: RunSummary) -> None:
    run = summary.model_copy(update={"steps": {"a": 3}})
    private = study(privacy={"unit": "patient", "epsilon": 3.0, "recipe": "manual"})
    assert [heading for heading, _ in steps(run, private)] == ["Optimiser steps"]
    assert steps(summary.model_copy(update={"steps": {}}), study()) == []


def test_keys_without_effect_are_named_with_their_values() -> None:
    asked = study(federation={"rounds": 2, "algorithm": "fedavg", "server_momentum": 0.5})
    assert "federation.server_momentum (0.5)" in idle(asked)
    used = study(federation={"rounds": 2, "algorithm": "fedavgm", "server_momentum": 0.5})
    assert "federation.server_momentum" not in idle(used)
