"""The audit of the real private training: it leaves what is right alone, and catches what is broken on purpose.

Noise and sampling come from fixed streams here, so each outcome below is the same every time. With other streams: see
`CAUGHT`, and the docstrings.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client import private_training
from client.privacy.accounting import Mechanism
from client.privacy.gradients import Clipping
from client.privacy.noise import NoiseSource
from common.classifier import set_trainable, trainable_tensors
from common.errors import StudyError
from common.protocol import StudyProtocol
from common.seeds import seed_for
from common.study_model import build_study_classifier
from simulations import audit as audit_module
from simulations.audit import Audit, audit, audit_study, guesses_of
from simulations.audit_bound import provable
from simulations.canaries import Auditor
from simulations.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_study
from tests.simulations.test_cli import Command, melfed_sim  # noqa: F401 (a fixture)

Break = Callable[[pytest.MonkeyPatch], None]

SAMPLED = {"sampling_rate": 0.1, "steps": 20}
RARE = {"sampling_rate": 0.05, "steps": 10}


@pytest.fixture(autouse=True)
def _fixed_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw noise and samples from fixed streams."""
    noise, sampling = np.random.default_rng(7), np.random.default_rng(8)
    monkeypatch.setattr(private_training, "NoiseSource", lambda: NoiseSource(noise.bytes))
    monkeypatch.setattr(private_training, "secure_generator", lambda: sampling)


def private_study(epsilon: float = 2.0, backbone: str = "mobilenet_v3_small", **privacy: object) -> StudyProtocol:
    return small_study(
        model={"backbone": backbone},
        training={"optimizer": "sgd"},
        privacy={
            **{"unit": "patient", "epsilon": epsilon, "recipe": "manual", "steps": 5, "evaluation": "public"},
            **privacy,
        },
    )


def audited(virtual: VirtualClinics, study: StudyProtocol, canaries: int | None = None, train: str = "head") -> Audit:
    """Audit a study of two rounds with a network from scratch, whose frozen prefix is kept."""
    model = build_study_classifier(study)
    set_trainable(model, train)  # type: ignore[arg-type]
    return audit(study, virtual.clinics[0], model, CPU, np.random.default_rng(3), canaries=canaries)


def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseSource, "gaussian", lambda _self, shape, _std: np.zeros(shape))


def with_a_quarter_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = NoiseSource.gaussian
    monkeypatch.setattr(NoiseSource, "gaussian", lambda self, shape, std: right(self, shape, std / 4))


def without_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clipping, "factors", lambda _self, norms: torch.ones_like(norms))


def with_too_little_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little is cut off: the root of the factor."""
    monkeypatch.setattr(Clipping, "factors", lambda self, norms: (self.norm / norms).sqrt().clamp(max=1))


def with_images_as_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "privacy_units", lambda records, _unit: [str(i) for i in range(len(records))])


def with_everybody_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_training, "poisson_sample", lambda units, _rate, _random: np.arange(units))


@pytest.mark.parametrize(
    ("epsilon", "privacy"),
    [
        (1.0, {}),
        (3.0, {}),
        (4.0, {"clipping": "normalised", "clipping_norm": 0.1}),
        (2.0, SAMPLED),
        (2.0, RARE),
        (2.0, {"unit": "image", "clipping_norm": 10.0}),
        (2.0, {"unit": "lesion", "views": 2}),
    ],
)
def test_what_is_right_is_left_alone(
    phantom_clinics: VirtualClinics, epsilon: float, privacy: dict[str, object]
) -> None:
    """The same every time (fixed streams); with others a false alarm has a probability of 0.05 at most (theorem)."""
    found = audited(phantom_clinics, private_study(epsilon, **privacy))
    assert found.claimed == pytest.approx(epsilon, rel=2e-3)
    assert not found.exceeded
    assert found.blind is None
    # It is an audit: what a canary adds is seen through the right amount of noise.
    assert found.correct > 0.55 * found.guesses
    assert found.canaries == 1000
    assert abs(found.included - 500) < 100
    assert found.steps == 2 * privacy.get("steps", 5)  # type: ignore[operator]


CAUGHT: list[tuple[Break, float, dict[str, object]]] = [
    (without_noise, 1.0, {}),
    (without_noise, 4.5, {}),
    (without_noise, 2.0, SAMPLED),
    (without_noise, 2.0, RARE),
    (without_clipping, 1.0, {}),
    (without_clipping, 4.5, {}),
    (without_clipping, 2.0, SAMPLED),
    (without_clipping, 2.0, {"clipping": "normalised"}),
    (with_too_little_clipping, 2.0, {}),
    (with_a_quarter_of_the_noise, 1.0, {}),
    (with_a_quarter_of_the_noise, 3.0, {}),
    (with_images_as_patients, 2.0, {}),
    (with_everybody_in_each_step, 2.0, SAMPLED),
]
"""What is broken, ε, the rest of the privacy section. Each was caught by all of 20 audits with other streams."""


@pytest.mark.parametrize(("break_it", "epsilon", "privacy"), CAUGHT)
def test_what_is_broken_is_caught(
    phantom_clinics: VirtualClinics,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Break,
    epsilon: float,
    privacy: dict[str, object],
) -> None:
    study = private_study(epsilon, **privacy)
    break_it(monkeypatch)
    found = audited(phantom_clinics, study)
    assert found.exceeded
    assert epsilon < found.bound <= found.provable


@pytest.mark.parametrize("break_it", [None, without_noise, without_clipping])
def test_through_a_whole_network(
    phantom_clinics: VirtualClinics, monkeypatch: pytest.MonkeyPatch, break_it: Break | None
) -> None:
    """Every layer learns, so that clipping and noise are those of all convolutions together."""
    study = private_study(1.0, "squeezenet1_1", steps=1)
    if break_it:
        break_it(monkeypatch)
    found = audited(phantom_clinics, study, canaries=60, train="full")
    assert found.exceeded == (break_it is not None)


def test_coins_come_from_the_seed_or_else_from_the_operating_system(
    phantom_clinics: VirtualClinics, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, clinic = private_study(backbone="simple_cnn", steps=1), phantom_clinics.clinics[0]
    first, again, other = (audit_study(study, clinic, 64, seed, None) for seed in (1, 1, 3))
    assert first.included == again.included != other.included
    monkeypatch.setattr(audit_module, "secure_generator", lambda: np.random.default_rng(seed_for(3, "audit")))
    assert audit_study(study, clinic, 64, None, None).included == other.included


def test_progress_is_told_step_by_step(phantom_clinics: VirtualClinics) -> None:
    told: list[tuple[int, int]] = []
    study = private_study(backbone="simple_cnn", steps=3)
    audit_study(study, phantom_clinics.clinics[0], 8, 1, None, lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]


def test_the_network_learns_as_in_a_run(phantom_clinics: VirtualClinics) -> None:
    """The auditor looks on: the study's optimiser still takes every step."""
    study = private_study(backbone="simple_cnn", steps=1)
    model = build_study_classifier(study)
    before = trainable_tensors(model)
    audit(study, phantom_clinics.clinics[0], model, CPU, np.random.default_rng(3), canaries=8)
    assert all(not np.array_equal(before[name], after) for name, after in trainable_tensors(model).items())


def test_a_canary_in_a_step_is_seen_at_full_length(
    phantom_clinics: VirtualClinics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever q, the clipping norm and the number of patients are; ordinary patients add a little here and there."""
    longest: list[float] = []

    class Watched(Auditor):
        def observe(self, scale: float) -> None:
            assert self.head.weight.grad is not None
            longest.append(float(self.head.weight.grad.abs().max()) * scale)
            super().observe(scale)

    without_noise(monkeypatch)
    monkeypatch.setattr(audit_module, "Auditor", Watched)
    audited(phantom_clinics, private_study(**RARE, clipping_norm=3.0), canaries=200)
    assert len(longest) == 20
    assert 0.9 < np.median(longest) < 1.5


@given(st.integers(8, 20_000), st.floats(0.01, 12), st.floats(0.01, 1), st.integers(1, 1000))
def test_guesses_can_refute_the_claim_where_canaries_suffice(
    canaries: int, claimed: float, q: float, steps: int
) -> None:
    highest, lowest = guesses_of(canaries, claimed, Mechanism(q, 1.0, steps))
    assert lowest in (0, highest)
    assert highest <= 0.4 * canaries  # about half of them are in
    assert highest + lowest >= 0.1 * canaries - 2
    # A canary that is never drawn cannot be told from one that is out.
    assert (lowest > 0) == ((1 - q) ** steps * math.exp(claimed + 0.9) <= 1 and highest > 0)
    if highest < 0.4 * canaries - 1 and highest > 5:
        assert provable(canaries, highest + lowest, 1e-6) > claimed


def test_blind_audits_say_so(phantom_clinics: VirtualClinics) -> None:
    few = audited(phantom_clinics, private_study(3.0), canaries=60)
    assert few.blind is not None
    assert "--canaries 185" in few.blind
    crowded = audited(phantom_clinics, private_study(3.0, "simple_cnn", steps=1), canaries=500)
    assert crowded.blind is not None
    assert "11 features" in crowded.blind


@pytest.mark.parametrize(
    ("study", "canaries", "word"),
    [
        (private_study(epsilon=None, noise_multiplier=0.0), None, "no finite epsilon"),  # type: ignore[arg-type]
        (small_study(), None, "no privacy"),
        (private_study(), 7, "7 canaries"),
    ],
)
def test_what_cannot_be_audited(
    phantom_clinics: VirtualClinics, study: StudyProtocol, canaries: int | None, word: str
) -> None:
    with pytest.raises(StudyError, match=word):
        audited(phantom_clinics, study, canaries)


STUDY = """\
name: small
data: {image_size: 32}
partition: {minimum_images: 4}
model: {backbone: squeezenet1_1, pretrained: false}
training: {optimizer: sgd, learning_rate: 0.01, augment: false}
federation: {rounds: 1}
privacy: {unit: patient, epsilon: 1, recipe: manual, evaluation: public}
"""


def test_the_command(
    melfed_sim: Command,  # noqa: F811 (a fixture)
    phantom: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    command = ("audit", study, "--data", phantom, "--seed", 1, "--canaries", 60)
    code, out, _ = melfed_sim(*command)
    assert code == 0
    assert "claimed ε" in out
    assert "0.999" in out or "1.000" in out
    without_noise(monkeypatch)
    code, out, err = melfed_sim(*command, "--json")
    report = json.loads(out)
    assert code == 12
    assert report["exceeded"]
    assert report["correct"] == report["guesses"]
    assert "ε = " in err
    code, _, err = melfed_sim(*command, "--set", "privacy=null")
    assert (code, "privacy" in err) == (3, True)
