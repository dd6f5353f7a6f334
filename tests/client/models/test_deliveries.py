"""A model is kept only where the policy takes it, the coordinator signed it, and it is of the study that it says."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melfed.client.models.store import ModelStore, load
from melfed.common.audit.log import read_log
from melfed.common.errors import DeclinedError, MelfedError, PolicyError, StudyError
from melfed.common.export.facts import ModelFacts
from melfed.common.tensors import TensorError
from tests.client.models.delivered import (
    FACTS,
    MODEL,
    RUN,
    STUDY,
    TENSORS,
    clinic_for_models,
    deliveries,
    question,
    signed,
)
from tests.client.small import small_study

OTHER = small_study(name="other")


def test_a_model_that_is_right_is_kept_for_the_clinic_alone(tmp_path: Path) -> None:
    config = clinic_for_models(tmp_path)
    deliveries(config).take(question(), lambda: TENSORS)
    (kept,) = ModelStore(config.models).all()
    assert (kept.facts, kept.study.digest, kept.name) == (FACTS, STUDY.digest, f"{STUDY.digest[:12]}-{RUN}")
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert config.models.stat().st_mode & 0o777 == 0o700
    found = load(kept).state_dict()
    assert found.keys() == MODEL.state_dict().keys()
    assert all(np.array_equal(found[name].numpy(), value.numpy()) for name, value in MODEL.state_dict().items())
    (row,) = read_log(config.audit_log)
    assert (row["event"], row["model"], row["run"], row["digest"]) == ("model-taken", kept.name, RUN, STUDY.digest)


def test_the_same_model_again_is_the_same_file(tmp_path: Path) -> None:
    config = clinic_for_models(tmp_path)
    for _ in range(2):
        deliveries(config).take(question(), lambda: TENSORS)
    assert len(ModelStore(config.models).all()) == 1


def refused(config: Any, kind: type[MelfedError], reason: str, asked: Any, tensors: Any = TENSORS) -> None:
    with pytest.raises(kind, match=reason) as raised:
        deliveries(config).take(asked, lambda: tensors)
    assert "\n" not in str(raised.value)
    assert not ModelStore(config.models).all()
    row = list(read_log(config.audit_log))[-1]
    assert row["event"] == "model-refused"
    assert re.search(reason, row["reason"])


def test_the_policy_says_whose_models_are_taken(tmp_path: Path) -> None:
    none = clinic_for_models(tmp_path / "none", models="none")
    refused(none, DeclinedError, "takes no models", question())
    stranger = clinic_for_models(tmp_path / "stranger", studies=[OTHER.digest])
    refused(stranger, DeclinedError, f"not approved here .digest {STUDY.digest}", question())
    for number, policy in enumerate(({"studies": "any"}, {"studies": [], "models": "any"})):
        config = clinic_for_models(tmp_path / str(number), **policy)
        deliveries(config).take(question(), lambda: TENSORS)
        assert len(ModelStore(config.models).all()) == 1


def test_what_the_policy_forbids_is_not_even_received(tmp_path: Path) -> None:
    def received() -> Any:
        raise AssertionError

    with pytest.raises(DeclinedError):
        deliveries(clinic_for_models(tmp_path, models="none")).take(question(), received)


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    config = clinic_for_models(tmp_path)
    altered = {**TENSORS, "head.bias": TENSORS["head.bias"] + np.float32(1e-6)}
    refused(config, StudyError, "not what the coordinator signed", question(), altered)
    told = FACTS.model_copy(update={"intended_use": "diagnosis"}).model_dump_json()
    refused(config, StudyError, "not what the coordinator signed", question(facts=told, signed=signed()))


def test_a_model_of_another_study_is_refused(tmp_path: Path) -> None:
    config = clinic_for_models(tmp_path, studies="any")
    of_other = ModelFacts.of(OTHER, run=RUN).model_dump_json()
    refused(config, StudyError, "its study is|says that its study", question(facts=of_other))
    refused(config, StudyError, "but brings", question(digest=OTHER.digest))
    refused(config, StudyError, "was sent as of", question(run="f" * 16))
    wider = small_study(data={"image_size": 64})
    refused(config, StudyError, "says that its", question(study=wider, digest=wider.digest))


@pytest.mark.parametrize("facts", ["", "{}", "x" * 70_000])
def test_facts_that_cannot_be_read_are_refused(tmp_path: Path, facts: str) -> None:
    refused(clinic_for_models(tmp_path), StudyError, "told of the model|says of the model", question(facts=facts))


def test_tensors_of_another_network_are_refused(tmp_path: Path) -> None:
    fewer = {name: value for name, value in TENSORS.items() if name != "head.bias"}
    asked = question(signed=signed(fewer))
    refused(clinic_for_models(tmp_path), TensorError, r"lacks head\.bias", asked, fewer)


def test_a_kit_without_its_authority_is_told_of(tmp_path: Path) -> None:
    config = clinic_for_models(tmp_path)
    config.ca_certificate.unlink()
    refused(config, PolicyError, "cannot be read", question())
