"""Two worlds, asked through a worker's service: the code as it is tells nothing, and each hole put back is seen.

Noise comes from a fixed stream here, so that but for durations each outcome is the same every time.
"""

from pathlib import Path

import numpy as np
import pytest

from melfed.client.privacy.noise import NoiseSource
from melfed.client.training import inputs
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit import worlds
from melfed.simulations.audit.door import (
    quiet,
)
from melfed.simulations.audit.trials import WorldsAudit, audit_worlds, trials_for
from tests.mutants import MUTANTS
from tests.simulations.audit.power import trials_needed

CONFIDENCE = 0.975
UNSEEN = {"float32_norms": 1.003, "subnormal_factor": 1.99}
"""By how many clipping norms these let one patient move a step's sum."""


@pytest.fixture(autouse=True)
def _fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(7)
    for module in ("melfed.client.training.private", "melfed.client.worker.worker"):
        monkeypatch.setattr(f"{module}.NoiseSource", lambda: NoiseSource(noise.bytes))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation computes a whole batch, whatever images there are: 64 stored features here, elsewhere 2,048."""
    monkeypatch.setattr(inputs, "CACHED_MICRO_BATCH_ELEMENTS", 1 << 10)


@pytest.fixture(autouse=True)
def _fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the patient for whom work is called off, all of which are computed anew in each trial."""
    monkeypatch.setattr(worlds, "MANY_IMAGES", 90)


def study_at(epsilon: float, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "epsilon": epsilon, "recipe": "manual", **privacy}
    return StudyProtocol.model_validate({"privacy": stated})


def audited(folder: Path, study: StudyProtocol, trials: int, looks: int) -> WorldsAudit:
    assert study.privacy is not None
    assert study.privacy.epsilon is not None
    coins = np.random.default_rng(5)
    with quiet():
        return audit_worlds(
            study, study.privacy.epsilon, coins, folder, confidence=CONFIDENCE, trials=trials, looks=looks
        )


@pytest.mark.parametrize(
    ("mutant", "statistic", "epsilon", "trials", "looks"),
    [
        ("refusals_by_data", "kind", 1.0, 20, 3),
        ("rounded_counts", "counts", 1.0, 20, 3),
        ("infinite_norm", "exact zeros", 1.0, 20, 3),
    ],
)
def test_each_hole_put_back_is_seen(
    tmp_path: Path, mutant: str, statistic: str, epsilon: float, trials: int, looks: int
) -> None:
    """`python -m tests.audit_table` has them all, with more trials; also what is told by a duration alone."""
    with MUTANTS[mutant]():
        found = audited(tmp_path, study_at(epsilon), trials, looks)
    assert found.exceeded
    assert found.claimed < found.bound <= found.provable
    assert statistic in found.statistic


@pytest.mark.parametrize("mutant", UNSEEN)
@pytest.mark.parametrize("epsilon", [1.0, 2.0, 3.0])
def test_two_holes_cannot_be_seen_by_so_few_trials(mutant: str, epsilon: float) -> None:
    """Whatever is looked at: the best auditor of a sum that is moved by so much needs ten times as many, or more."""
    assert trials_needed(UNSEEN[mutant], epsilon, 1e-5, CONFIDENCE) > 10 * trials_for(epsilon)


@pytest.mark.parametrize(
    "privacy", [{}, {"unit": "image", "evaluation": "public", "clipping": "normalised", "clipping_norm": 5.0}]
)
def test_the_code_as_it_is_raises_no_alarm(tmp_path: Path, privacy: dict[str, object]) -> None:
    found = audited(tmp_path, study_at(2.0, **privacy), 40, 2)
    assert not found.exceeded
    assert found.provable > found.claimed
    # Every scenario was looked at, and in none of them was there anything that never errs.
    assert len(found.looks) == (8 if not privacy else 6)
    assert found.bound < 1
