"""The study protocol: what is refused, and a digest that covers everything that influences training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from melfed.common.errors import StudyError
from melfed.common.model.backbones import BACKBONES
from melfed.common.study.file import documented_keys, read_study, study_yaml
from melfed.common.study.protocol import (
    CURRENT,
    DataSpec,
    ModelSpec,
    PartitionSpec,
    PhantomSection,
    PrivacySpec,
    StudyProtocol,
    TrainingSpec,
    require_current,
    validates,
)

SEEDED = ("partition", "model", "training")
PRIVATE = {"unit": "patient", "epsilon": 3.0}

DEFAULT_DIGEST = "0ffba19e54b660dace5f55a164fec7140ba8a26b1777b39cda01790888063e18"
"""Of the default study. Where it changes, so do the digests of all studies: approved studies and old checkpoints are no
longer recognised. Change it here only together with a key of the protocol."""

OTHER = {
    "name": "other",
    "data.positive": "[mel, bcc]",
    "data.image_size": 64,
    "data.sources": "[north]",
    "data.image_type": "[dermoscopic]",
    "data.phantom": "{}",
    "data.phantom.images": 400,
    "data.phantom.clinics": 3,
    "data.phantom.melanoma_rate": 0.5,
    "partition.by": "iid",
    "partition.clinics": 3,
    "partition.alpha": 1,
    "partition.classes": 3,
    "partition.validation": 0.2,
    "partition.test": 0.3,
    "partition.minimum_images": 10,
    "model.backbone": "resnet18",
    "model.pretrained": "false",
    "model.train": "head",
    "model.metadata": "true",
    "model.dropout": 0.1,
    "model.neck": 64,
    "model.weights": "somewhere.pth",
    "model.weights_sha256": "a" * 64,
    "training.optimizer": "sgd",
    "training.learning_rate": 1e-3,
    "training.schedule": "cosine",
    "training.warmup_steps": 7,
    "training.gradient_norm": "2.0",
    "training.weight_decay": 0,
    "training.momentum": 0.5,
    "training.batch_size": 8,
    "training.local_epochs": 2,
    "training.positive_weight": 3,
    "training.augment": "false",
    "federation.mode": "local",
    "federation.rounds": 6,
    "federation.start": "one_round",
    "federation.algorithm": "fedprox",
    "federation.proximal_mu": 0.1,
    "federation.server_learning_rate": 0.5,
    "federation.server_momentum": 0.5,
    "federation.server_beta2": 0.5,
    "federation.server_tau": 0.1,
    "federation.cohort": 0.5,
    "federation.quorum": 0.5,
    "federation.validate_every": 2,
    "federation.stop": "{patience: 2}",
    "federation.stop.metric": "auprc",
    "federation.stop.patience": 5,
    "federation.tail_average": 0.5,
    "federation.deadline_seconds": 60,
    "federation.grace_seconds": 5,
    "federation.largest_clinic": 1000,
    "federation.largest_update_norm": 10,
    "federation.clip_update_norm": 1,
    "federation.compression": "int8",
    "federation.robust": "median",
    "federation.robust_trim": 0.2,
    "federation.robust_byzantine": 2,
    "privacy": "{unit: patient, epsilon: 3}",
    "privacy.unit": "lesion",
    "privacy.epsilon": 8,
    "privacy.noise_multiplier": 1.5,
    "privacy.delta": 1e-6,
    "privacy.recipe": "manual",
    "privacy.patients": 500,
    "privacy.sampling_rate": 0.5,
    "privacy.steps": 2,
    "privacy.clipping": "normalised",
    "privacy.clipping_norm": 0.5,
    "privacy.views": 4,
    "privacy.evaluation": "public",
    "evaluation.subgroups": "[age, source]",
    "evaluation.local_baseline": "true",
    "evaluation.operating_points": "[{sensitivity: 0.95}, {specificity: 0.9}]",
    "resources.cpus": 2,
    "resources.gpus": 1,
    "seed": 1,
    "partition.seed": 1,
    "model.seed": 1,
    "training.seed": 1,
}
"""Another valid value of each key."""
NEEDED = {
    "data.phantom.": ["data.phantom={}"],
    "privacy.": ["privacy={unit: patient, epsilon: 3}"],
    "privacy.noise_multiplier": ["privacy={unit: patient, noise_multiplier: 1}"],
    "partition.alpha": ["partition.by=label_dirichlet"],
    "partition.classes": ["partition.by=pathological", "partition.classes=2"],
    "training.momentum": ["training.optimizer=sgd"],
    "federation.proximal_mu": ["federation.algorithm=fedprox"],
    "federation.start": ["model={neck: 8, train: head}", "privacy={unit: patient, epsilon: 3}"],
    "federation.server_": ["federation.algorithm=fedadam"],
    "federation.stop.": ["federation.stop={}"],
    "federation.grace_seconds": ["federation.quorum=0.9"],
    "federation.robust_trim": ["federation.robust=trimmed_mean"],
    "federation.robust_byzantine": ["federation.robust=krum"],
}
"""What must be stated besides: of the longest beginning of a key that is here."""
OF_ONE_VALUE = {"protocol"}
OUTSIDE_THE_DIGEST = {"model.weights", "resources.cpus", "resources.gpus"}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text("name: study\n")
    return path


def test_another_value_is_known_of_every_key() -> None:
    assert OTHER.keys() | OF_ONE_VALUE == {name for name, _, _ in documented_keys()}


@pytest.mark.parametrize("key", OTHER)
def test_the_digest_covers_every_key_that_influences_training(key: str, empty: Path) -> None:
    base = NEEDED[max(fitting, key=len)] if (fitting := [name for name in NEEDED if key.startswith(name)]) else []
    before, after = read_study(empty, base), read_study(empty, [*base, f"{key}={OTHER[key]}"])
    assert before != after
    assert (before.digest == after.digest) == (key in OUTSIDE_THE_DIGEST)


@pytest.mark.parametrize("attributes", ["[age, age]", "[colour]", "age"])
def test_subgroups_are_attributes_that_there_are_each_once(attributes: str, empty: Path) -> None:
    with pytest.raises(StudyError, match=r"evaluation\.subgroups"):
        read_study(empty, [f"evaluation.subgroups={attributes}"])


def test_the_digest_is_pinned() -> None:
    assert StudyProtocol().digest == DEFAULT_DIGEST


@pytest.mark.parametrize(
    ("section", "stated", "key", "values"),
    [
        ("model", "backbone", "dropout", {"simple_cnn": 0.4, "resnet18": 0.0, "efficientnet_lite0": 0.0}),
        ("federation", "algorithm", "server_learning_rate", {"fedavgm": 1.0, "fedadam": 0.01, "fedyogi": 0.01}),
    ],
)
def test_what_follows_from_another_key_is_in_the_digest_as_it_is_in_force(
    section: str, stated: str, key: str, values: dict[str, float]
) -> None:
    for choice, value in values.items():
        followed = StudyProtocol().with_changes(section, **{stated: choice})
        assert json.loads(followed.canonical())[section][key] == value
        assert followed.with_changes(section, **{key: value}).digest == followed.digest
        assert followed.with_changes(section, **{key: value / 2 + 0.1}).digest != followed.digest


def test_every_key_is_in_the_canonical_form_stated_or_not() -> None:
    study = read_study(Path(__file__).resolve().parents[3] / "simulations/studies/demo.yaml")
    content = json.loads(study.canonical())
    assert content["protocol"] == CURRENT
    for section in ("data", "partition", "training", "federation"):
        known = type(getattr(study, section)).model_fields.keys()
        assert content[section].keys() == known
        explicit = getattr(study, section).model_dump(mode="json")
        assert study.with_changes(section, **explicit).digest == study.digest


def test_a_section_without_a_seed_of_its_own_goes_by_the_studys_and_changes_no_digest() -> None:
    study = StudyProtocol(seed=7)
    for section in SEEDED:
        assert study.seed_of(section) == 7
        stated = study.with_changes(section, seed=7)
        assert stated.seed_of(section) == 7
        assert stated.digest != study.digest, "what is stated is in the digest"
        assert stated.with_changes(section, seed=None).digest == study.digest
        assert stated.with_changes(section, seed=0).seed_of(section) == 0
        assert all(study.with_changes(section, seed=1).seed_of(other) == 7 for other in SEEDED if other != section)


def test_a_study_of_the_first_version_is_read_and_not_trained(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text("protocol: 1\nname: old\nprivacy: {unit: patient, epsilon: 3, smallest_cell: 10}\n")
    study = read_study(old)
    assert study.protocol == 1
    with pytest.raises(StudyError, match=r"^study old is of protocol 1: since protocol 2 each patient .*approve it a"):
        require_current(study)
    require_current(StudyProtocol())


def test_the_digest_is_the_same_in_every_process() -> None:
    code = "from melfed.common.study.protocol import StudyProtocol; print(StudyProtocol().digest)"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        root = Path(__file__).resolve().parents[3]
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == StudyProtocol().digest


def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_how_a_number_is_written() -> None:
    one = StudyProtocol.model_validate_json('{"seed": 3, "name": "a", "training": {"learning_rate": 1, "momentum": 0}}')
    two = StudyProtocol.model_validate_json(
        '{"training": {"momentum": 0.0, "learning_rate": 1.0}, "name": "a", "seed": 3}'
    )
    three = StudyProtocol(name="a", seed=3, training=TrainingSpec(learning_rate=1, momentum=0))
    assert one.digest == two.digest == three.digest


def test_the_canonical_document_is_sorted_compact_ascii() -> None:
    study = StudyProtocol(data=DataSpec(sources=("Köln",)))
    text = study.canonical()
    content = json.loads(text)
    assert content["data"]["sources"] == ["Köln"]
    assert text == json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert text.isascii()


def test_every_section_refuses_unknown_keys_and_change() -> None:
    sections = [StudyProtocol, *(type(getattr(StudyProtocol(), name)) for name in StudyProtocol.model_fields)]
    sections = [section for section in (*sections, PhantomSection, PrivacySpec) if issubclass(section, BaseModel)]
    assert len(sections) == 10
    for section in sections:
        needed = PRIVATE if section is PrivacySpec else {}
        with pytest.raises(ValidationError, match="extra"):
            section(**needed, unknown=1)
        study = section(**needed)
        with pytest.raises(ValidationError, match="frozen"):
            setattr(study, next(iter(section.model_fields)), None)


@pytest.mark.parametrize(
    ("section", "content"),
    [
        (PartitionSpec, {"validation": 0.5, "test": 0.5}),
        (PartitionSpec, {"clinics": 0}),
        (PartitionSpec, {"alpha": 0.0}),
        (ModelSpec, {"backbone": "resnet"}),
        (ModelSpec, {"pretrained": False, "weights": "file.pth"}),
        (ModelSpec, {"pretrained": False, "weights_sha256": "a" * 64}),
        (ModelSpec, {"pretrained": False, "train": "head"}),
        (ModelSpec, {"weights_sha256": "A" * 64}),
        (ModelSpec, {"weights_sha256": "a" * 63}),
        (TrainingSpec, {"batch_size": "8"}),
        (TrainingSpec, {"batch_size": 8.0}),
        (TrainingSpec, {"batch_size": True}),
        (TrainingSpec, {"learning_rate": float("nan")}),
        (TrainingSpec, {"learning_rate": float("inf")}),
        (TrainingSpec, {"weight_decay": float("nan")}),
        (DataSpec, {"sources": ()}),
        (DataSpec, {"positive": ()}),
        (StudyProtocol, {"name": "../elsewhere"}),
        (StudyProtocol, {"name": ""}),
        (StudyProtocol, {"seed": -1}),
        (StudyProtocol, {"seed": 2**63}),
        (StudyProtocol, {"protocol": 3}),
        (ModelSpec, {"neck": 0}),
        (ModelSpec, {"neck": 4097}),
        (ModelSpec, {"neck": 8, "pretrained": False}),
        (ModelSpec, {"neck": 8, "train": "last_block"}),
        (StudyProtocol, {"federation": {"tail_average": 1.0}}),
    ],
)
def test_refusals(section: type[BaseModel], content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section(**content)


def test_no_float_can_be_infinite_or_no_number() -> None:
    sections = (
        PhantomSection,
        PrivacySpec,
        *(type(getattr(StudyProtocol(), name)) for name in StudyProtocol.model_fields),
    )
    floats = [
        (section, name)
        for section in sections
        if issubclass(section, BaseModel)
        for name, field in section.model_fields.items()
        if field.annotation in {float, float | None}
    ]
    assert len(floats) > 20
    for section, name in floats:
        # What a privacy section needs besides, without contradicting the number.
        needed = {**PRIVATE, "noise_multiplier": None} if section is PrivacySpec else {}
        if name == "noise_multiplier":
            needed["epsilon"] = None
        for value in (float("nan"), float("inf"), float("-inf")):
            with pytest.raises(ValidationError) as excinfo:
                section(**{**needed, name: value})
            assert [error["loc"] for error in excinfo.value.errors()] == [(name,)]


def test_with_changes_keeps_the_rest_and_validates() -> None:
    study = StudyProtocol(name="kept", data=DataSpec(sources=("a", "!b"), phantom=PhantomSection()), seed=4)
    changed = study.with_changes("model", weights_sha256="b" * 64)
    assert changed.model == ModelSpec(weights_sha256="b" * 64)
    assert changed.model_copy(update={"model": study.model}) == study
    with pytest.raises(ValidationError):
        study.with_changes("model", weights_sha256="no digest")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_allowed(backbone: str) -> None:
    assert ModelSpec(backbone=backbone).backbone == backbone


# What a privacy section may say, as its author is told.


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("{unit: patient}", ":2: privacy: state epsilon or noise_multiplier: neither is stated"),
        (
            "{unit: patient, epsilon: 3, noise_multiplier: 1}",
            "privacy: state epsilon or noise_multiplier: both are sta",
        ),
        (
            "{unit: patient, epsilon: 3, noise_multiplier: 0}",
            "privacy: noise_multiplier is 0, so no epsilon holds, not",
        ),
        ("{epsilon: 3}", "privacy.unit is missing: whose images are protected together"),
        ("{unit: clinic, epsilon: 3}", "privacy.unit: input should be 'patient', 'lesion' or 'image', not \"clinic\""),
        ("{unit: patient, epsilon: 0}", "privacy.epsilon: input should be greater than 0, not 0"),
        ("{unit: patient, epsilon: .inf}", "privacy.epsilon: "),
        (
            "{unit: patient, noise_multiplier: -1}",
            "privacy.noise_multiplier: input should be greater than or equal to 0",
        ),
        ("{unit: patient, epsilon: 3, delta: 0}", "privacy.delta: input should be greater than 0, not 0"),
        ("{unit: patient, epsilon: 3, delta: 1}", "privacy.delta: input should be less than 1, not 1"),
        (
            "{unit: patient, epsilon: 3, sampling_rate: 0}",
            "privacy.sampling_rate: input should be greater than 0, not 0",
        ),
        (
            "{unit: patient, epsilon: 3, sampling_rate: 1.5}",
            "privacy.sampling_rate: input should be less than or equal",
        ),
        (
            "{unit: patient, epsilon: 3, clipping_norm: 0}",
            "privacy.clipping_norm: input should be greater than or equal to 0.000001, not 0",
        ),
        ("{unit: patient, epsilon: 3, steps: 0}", "privacy.steps: input should be greater than or equal to 1, not 0"),
        ("{unit: patient, epsilon: 3, patients: 0}", "privacy.patients: input should be greater than or equal to 1"),
        (
            "{unit: patient, epsilon: 3, views: 0}",
            "privacy.views: input should be greater than or equal",
        ),
        ("{unit: patient, epsilon: 3, epsilom: 1}", "unknown key privacy.epsilom; did you mean privacy.epsilon?"),
    ],
)
def test_a_privacy_section_that_says_nothing_sensible_is_told_why(empty: Path, section: str, expected: str) -> None:
    empty.write_text(f"name: study\nprivacy: {section}\n")
    with pytest.raises(StudyError) as excinfo:
        read_study(empty)
    message = str(excinfo.value)
    assert expected in message
    assert message.startswith(f"{empty}:2: ")
    assert "\n" not in message


@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_baseline_is_not_private(empty: Path, mode: str) -> None:
    empty.write_text(f"federation: {{mode: {mode}}}\nprivacy: {{unit: patient, epsilon: 3}}\n")
    with pytest.raises(StudyError, match=f"privacy is for federation.mode federated and one_round, not {mode}; a"):
        read_study(empty)
    assert read_study(empty, ["privacy=null"]).privacy is None


def test_no_noise_may_be_stated_where_no_epsilon_is_claimed() -> None:
    assert PrivacySpec(unit="patient", noise_multiplier=0.0).epsilon is None


def test_a_private_study_keeps_its_digest_through_a_file(empty: Path) -> None:
    study = StudyProtocol(privacy=PrivacySpec(**PRIVATE, delta=1e-6, clipping="normalised"))
    empty.write_text(study_yaml(study))
    assert read_study(empty).digest == study.digest != StudyProtocol().digest


def test_models_are_validated_now_and_then_and_in_the_end() -> None:
    study = StudyProtocol().with_changes("federation", rounds=7, validate_every=3)
    assert [number for number in range(9) if validates(study, number)] == [3, 6, 7]
