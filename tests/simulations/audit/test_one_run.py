"""One run with canaries through a worker's service: it leaves what is right alone, and catches what is broken.

Noise and sampling come from fixed streams here, so each outcome below is the same every time.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from melfed.client.privacy.accounting import Mechanism
from melfed.client.privacy.gradients import Clipping
from melfed.client.privacy.noise import NoiseSource
from melfed.client.training import private as private_training
from melfed.common.errors import StudyError
from melfed.common.model.classifier import build_trunk
from melfed.common.study.build import seal
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit.bound import provable
from melfed.simulations.audit.one_run import CanaryAudit, audit_canaries, guesses_of, plain_steps
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_study

Break = Callable[[pytest.MonkeyPatch], None]

BACKBONE = "mobilenet_v3_small"
SAMPLED = {"sampling_rate": 0.1, "steps": 20}
CONFIDENCE = 0.975


@pytest.fixture(autouse=True)
def _fixed_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw noise and samples from fixed streams."""
    noise, sampling = np.random.default_rng(7), np.random.default_rng(8)
    for module in ("melfed.client.training.private", "melfed.client.worker.worker"):
        monkeypatch.setattr(f"{module}.NoiseSource", lambda: NoiseSource(noise.bytes))
    monkeypatch.setattr(private_training, "secure_generator", lambda: sampling)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random weights in the place of pretrained ones, so that the head alone learns."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        trunk = build_trunk(BACKBONE, pretrained=True)
    state = {name: value for name, value in trunk.state_dict().items() if not name.endswith("num_batches_tracked")}
    safetensors.torch.save_file(state, folder / f"{BACKBONE}-random.safetensors")
    return folder


def private_study(epsilon: float | None = 2.0, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "epsilon": epsilon, "recipe": "manual", "steps": 5, "evaluation": "public"}
    model = {"backbone": BACKBONE, "pretrained": True, "train": "head"}
    return small_study(model=model, federation={"rounds": 1}, privacy={**stated, **privacy})


def audited(
    virtual: VirtualClinics, folder: Path, weights: Path, study: StudyProtocol, canaries: int = 500
) -> CanaryAudit:
    return audit_canaries(
        seal(study, weights),
        virtual.clinics[0],
        np.random.default_rng(3),
        folder,
        device=CPU,
        confidence=CONFIDENCE,
        canaries=canaries,
        weights_dir=weights,
    )


def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseSource, "gaussian", lambda _self, shape, _std: np.zeros(shape))


def with_a_quarter_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    right = NoiseSource.gaussian
    monkeypatch.setattr(NoiseSource, "gaussian", lambda self, shape, std: right(self, shape, std / 4))


def with_too_little_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too little is cut off: the root of the factor."""
    monkeypatch.setattr(Clipping, "factors", lambda self, norms: (self.norm / norms).sqrt().clamp(max=1))


def with_images_as_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "melfed.client.worker.worker.privacy_units", lambda records, _unit: [str(i) for i in range(len(records))]
    )


def with_everybody_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_training, "poisson_sample", lambda units, _rate, _random: np.arange(units))


@pytest.mark.parametrize("privacy", [{}, SAMPLED, {"unit": "image", "clipping": "normalised", "clipping_norm": 0.1}])
def test_what_is_right_is_left_alone(
    phantom_clinics: VirtualClinics, tmp_path: Path, weights: Path, privacy: dict[str, object]
) -> None:
    """The same every time (fixed streams); with others a false alarm has a probability of 0.025 at most (theorem)."""
    found = audited(phantom_clinics, tmp_path, weights, private_study(**privacy))
    assert found.claimed == pytest.approx(2.0, rel=2e-3)
    assert not found.exceeded
    assert found.blind is None
    # It is an audit: what a canary adds is seen through the right amount of noise, most where it is in every step.
    assert found.correct > (0.55 if "sampling_rate" not in privacy else 0.5) * found.guesses
    assert abs(found.included - 250) < 60
    assert found.steps == privacy.get("steps", 5)


CAUGHT: list[tuple[Break, dict[str, object]]] = [
    (without_noise, {}),
    (without_noise, SAMPLED),
    (with_a_quarter_of_the_noise, {}),
    (with_too_little_clipping, {}),
    (with_images_as_patients, {}),
    (with_everybody_in_each_step, SAMPLED),
]


@pytest.mark.parametrize(("break_it", "privacy"), CAUGHT)
def test_what_is_broken_is_caught(
    phantom_clinics: VirtualClinics,
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Break,
    privacy: dict[str, object],
) -> None:
    study = private_study(**privacy)
    break_it(monkeypatch)
    found = audited(phantom_clinics, tmp_path, weights, study)
    assert found.exceeded
    assert found.claimed < found.bound <= found.provable


def test_the_auditor_keeps_a_study_s_privacy() -> None:
    """What is asked is the study's own mechanism, with steps that hide nothing."""
    study = private_study(**SAMPLED, views=2)
    asked = plain_steps(study)
    assert (asked.privacy, asked.model, asked.partition) == (study.privacy, study.model, study.partition)
    assert (asked.training.optimizer, asked.training.momentum, asked.training.gradient_norm) == ("sgd", 0.0, None)


@given(st.integers(8, 20_000), st.floats(0.01, 12), st.floats(0.01, 1), st.integers(1, 1000))
def test_guesses_can_refute_the_claim_where_canaries_suffice(
    canaries: int, claimed: float, q: float, steps: int
) -> None:
    highest, lowest = guesses_of(canaries, claimed, Mechanism(q, 1.0, steps), 0.95)
    assert lowest in (0, highest)
    assert highest <= 0.4 * canaries  # about half of them are in
    assert highest + lowest >= 0.1 * canaries - 2
    # A canary that is never drawn cannot be told from one that is out.
    assert (lowest > 0) == ((1 - q) ** steps * math.exp(claimed + 0.9) <= 1 and highest > 0)
    if highest < 0.4 * canaries - 1 and highest > 5:
        assert provable(canaries, highest + lowest, 1e-6) > claimed


def test_blind_audits_say_so(phantom_clinics: VirtualClinics, tmp_path: Path, weights: Path) -> None:
    few = audited(phantom_clinics, tmp_path, weights, private_study(3.0, steps=1), canaries=60)
    assert few.blind is not None
    assert "--canaries 228" in few.blind
    crowded = replace(few, canaries=300, features=11, provable=4.0)
    assert crowded.blind is not None
    assert "11 features" in crowded.blind


@pytest.mark.parametrize(
    ("study", "canaries", "word"),
    [
        (private_study(epsilon=None, noise_multiplier=0.0), 100, "no finite epsilon"),
        (small_study(), 100, "no privacy"),
        (private_study(), 7, "7 canaries"),
    ],
)
def test_what_cannot_be_audited(
    phantom_clinics: VirtualClinics, tmp_path: Path, weights: Path, study: StudyProtocol, canaries: int, word: str
) -> None:
    with pytest.raises(StudyError, match=word):
        audited(phantom_clinics, tmp_path, weights, study, canaries)
