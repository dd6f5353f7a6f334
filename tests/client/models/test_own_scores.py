"""A clinic's own histogram of a model: noised and charged once in a private study, exact and free in others."""

from dataclasses import replace
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.ledger.key import ledger_key
from melfed.client.ledger.ledger import verify
from melfed.client.models.own_scores import kept_scores, own_scores
from melfed.client.models.store import KeptModel, ModelStore
from melfed.common.errors import BudgetError, RunError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.study.protocol import StudyProtocol
from tests.client.models.delivered import FACTS, MODEL, clinic_for_models
from tests.client.small import small_study

PARTS = {"by": "source", "minimum_images": 4, "validation": 0.2, "test": 0.3}
PUBLIC = small_study(partition=PARTS)
PRIVATE = StudyProtocol.model_validate(
    {**PUBLIC.model_dump(), "privacy": {"unit": "patient", "epsilon": 2.0, "recipe": "manual"}}
)


@pytest.fixture
def config(tmp_path: Path, phantom: Path) -> ClinicConfig:
    found = clinic_for_models(tmp_path)
    data = found.file.data.model_copy(update={"folder": str(phantom), "sources": ("phantom_north",)})
    here = replace(found, file=found.file.model_copy(update={"data": data, "name": "phantom_north"}))
    ledger_key(here.ledger)
    return here


def kept(config: ClinicConfig, study: StudyProtocol) -> KeptModel:
    tensors = {name: value.numpy() for name, value in MODEL.state_dict().items()}
    return ModelStore(config.models).save(tensors, FACTS.model_copy(update={"study": study.digest}), study, "ab" * 32)


def test_without_privacy_it_is_exact_and_nothing_is_charged(config: ClinicConfig) -> None:
    found, spent = own_scores(config, kept(config, PUBLIC))
    assert isinstance(found, ScoreHistogram)
    assert found.images > 0
    assert spent is None
    assert not config.ledger.exists() or not config.ledger.read_bytes()


def test_a_private_one_is_noised_charged_once_and_the_same_ever_after(config: ClinicConfig) -> None:
    model = kept(config, PRIVATE)
    found, spent = own_scores(config, model)
    assert isinstance(found, NoisyHistogram)
    assert found.noise_std > 1
    assert spent is not None
    assert 0 < spent < 1
    rows = verify(config.ledger).rows
    assert [row.status for row in rows] == ["reserved", "spent", "released"]
    assert (rows[0].study, rows[0].run, rows[0].purpose) == (PRIVATE.digest, model.facts.run, "evaluation")
    assert kept_scores(model).stat().st_mode & 0o777 == 0o600
    again, nothing = own_scores(config, model)
    assert nothing is None
    assert again.to_lists() == found.to_lists()
    assert len(verify(config.ledger).rows) == 3
    kept(config, PRIVATE)
    assert not kept_scores(model).exists(), "a model that comes anew has scores of its own"
    ModelStore(config.models).remove(model)
    assert not list(config.models.iterdir())


def test_beyond_the_clinics_epsilon_nothing_is_computed(config: ClinicConfig) -> None:
    policy = config.file.policy.model_copy(update={"epsilon": 0.01})
    poor = replace(config, file=config.file.model_copy(update={"policy": policy}))
    model = kept(poor, PRIVATE)
    with pytest.raises(BudgetError, match="too little is left of these patients' ε"):
        own_scores(poor, model)
    assert not kept_scores(model).exists()


def test_what_was_kept_and_is_damaged_is_told_of(config: ClinicConfig) -> None:
    model = kept(config, PRIVATE)
    kept_scores(model).write_text("{}")
    with pytest.raises(RunError, match="damaged; remove it"):
        own_scores(config, model)
