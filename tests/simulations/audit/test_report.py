"""The command `melfed-sim audit`: what it prints, and how it leaves."""

import json
from pathlib import Path

import pytest

from melfed.simulations.audit import trials, worlds
from tests.mutants import MUTANTS
from tests.simulations.cli.test_main import Command, melfed_sim  # noqa: F401 (a fixture)

STUDY = """\
name: small
data: {image_size: 32}
partition: {by: source}
model: {backbone: squeezenet1_1, pretrained: false}
training: {optimizer: sgd, learning_rate: 0.01, augment: false}
federation: {rounds: 1}
privacy: {unit: patient, epsilon: 1, recipe: manual, evaluation: public}
"""


@pytest.fixture
def command(tmp_path: Path, phantom: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """An audit of few trials."""
    monkeypatch.setattr(trials, "LOOKS", 2)
    monkeypatch.setattr(trials, "FEWEST_TRIALS", 20)
    monkeypatch.setattr(worlds, "MANY_IMAGES", 90)
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    return ("audit", study, "--data", phantom, "--seed", 1, "--canaries", 60)


def test_what_is_right_is_left_alone(melfed_sim: Command, command: tuple[object, ...]) -> None:  # noqa: F811
    code, out, _ = melfed_sim(*command)
    assert code == 0
    for words in ("claimed ε", "two worlds", "canaries", "alone in a class", "95%"):
        assert words in out


def test_a_refuted_claim_leaves_with_code_12(
    melfed_sim: Command,  # noqa: F811
    command: tuple[object, ...],
) -> None:
    with MUTANTS["refusals_by_data"]():
        code, out, err = melfed_sim(*command, "--json")
    told = json.loads(out)
    assert code == 12
    assert told["exceeded"]
    assert told["worlds"]["exceeded"]
    assert told["worlds"]["statistic"].endswith("kind")
    assert told["worlds"]["correct"] == told["worlds"]["trials"]
    assert not told["canaries"]["exceeded"]
    assert "ε = " in err


def test_a_study_without_privacy_is_refused(melfed_sim: Command, command: tuple[object, ...]) -> None:  # noqa: F811
    code, _, err = melfed_sim(*command, "--set", "privacy=null", "--set", "partition.minimum_images=4")
    assert (code, "privacy" in err) == (3, True)
