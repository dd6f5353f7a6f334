"""Keys of a study that nothing reads: every key is varied in a run, and the run says whether it had an effect."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.errors import StudyError
from melfed.common.study.build import seal
from melfed.common.study.file import documented_keys, read_study, recorded_study, study_yaml
from melfed.common.study.in_force import (
    FEDERATED_ALONE,
    RULES,
    TRAINING_ALONE,
    idle,
    idle_keys,
    idle_values,
    in_force,
    value_of,
)
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import resolve
from melfed.common.tensors import Tensors
from melfed.server.runs.folder import RunFolder
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.common.runs import finished_run, public_model
from tests.in_process import federate_here

STUDIES = sorted((Path(__file__).resolve().parents[3] / "simulations" / "studies").glob("*.yaml"))

SMALL = {
    "data.image_size": 32,
    "partition.minimum_images": 4,
    "model.backbone": "simple_cnn",
    "model.pretrained": False,
    "model.dropout": 0.0,
    "training.optimizer": "sgd",
    "training.learning_rate": 0.05,
    "training.batch_size": 8,
    "training.augment": False,
    "training.warmup_steps": 2,
    "federation.rounds": 3,
}
PRIVATE = SMALL | {
    "privacy.unit": "image",
    "privacy.noise_multiplier": 0.0,
    "privacy.recipe": "manual",
    "privacy.evaluation": "public",
    "privacy.steps": 2,
}

SEEN: dict[str, tuple[object, Mapping[str, object]]] = {
    "model.metadata": (True, {}),
    "model.dropout": (0.5, {}),
    "training.optimizer": ("adam", {}),
    "training.learning_rate": (0.02, {}),
    "training.schedule": ("cosine", {}),
    "training.warmup_steps": (0, {}),
    "training.gradient_norm": (0.01, {}),
    "training.weight_decay": (0.5, {}),
    "training.momentum": (0.5, {}),
    "training.batch_size": (4, {}),
    "training.local_epochs": (0.5, {}),
    "training.positive_weight": (3.0, {}),
    "training.augment": (True, {}),
    "federation.rounds": (2, {}),
    "federation.algorithm": ("fedavgm", {}),
    "federation.proximal_mu": (5.0, {"federation.algorithm": "fedprox"}),
    "federation.server_learning_rate": (0.5, {"federation.algorithm": "fedavgm"}),
    "federation.server_momentum": (0.5, {"federation.algorithm": "fedadam"}),
    "federation.server_beta2": (0.5, {"federation.algorithm": "fedadam"}),
    "federation.server_tau": (0.1, {"federation.algorithm": "fedyogi"}),
    "federation.cohort": (0.4, {}),
    "federation.tail_average": (0.7, {}),
    "federation.clip_update_norm": (0.001, {}),
    "federation.compression": ("int8", {}),
    "federation.robust": ("median", {}),
    "seed": (1, {}),
    "model.seed": (1, {}),
    "training.seed": (1, {}),
}
"""Another value of each key, and what must be stated besides, for the final model to be another one."""

SEEN_IN_PRIVATE: dict[str, tuple[object, Mapping[str, object]]] = {
    "privacy.steps": (3, {}),
    "privacy.clipping": ("normalised", {}),
    "privacy.clipping_norm": (0.01, {}),
    "federation.proximal_mu": (5.0, {"federation.algorithm": "fedprox"}),
    "training.momentum": (0.5, {}),
}

IDLE: dict[str, tuple[object, Mapping[str, object]]] = {
    "training.momentum": (0.5, {"training.optimizer": "adam"}),
    "federation.proximal_mu": (5.0, {}),
    "federation.server_learning_rate": (0.5, {"federation.algorithm": "fedprox"}),
    "federation.server_momentum": (0.5, {}),
    "federation.server_beta2": (0.5, {"federation.algorithm": "fedavgm"}),
    "federation.server_tau": (0.1, {"federation.algorithm": "fedavgm"}),
    "federation.grace_seconds": (5.0, {}),
    "federation.robust_trim": (0.3, {"federation.robust": "median"}),
    "federation.robust_byzantine": (2, {"federation.robust": "trimmed_mean"}),
    "partition.alpha": (0.1, {}),
}
"""Another value of each key that a rule is about, in a study where nothing reads it: the model is the same."""

IDLE_IN_PRIVATE: dict[str, tuple[object, Mapping[str, object]]] = {
    "partition.minimum_images": (5, {}),
    "training.batch_size": (4, {}),
    "training.local_epochs": (0.5, {}),
    "federation.proximal_mu": (5.0, {"federation.algorithm": "fedprox", "privacy.steps": 1}),
    "privacy.views": (2, {}),
}

ELSEWHERE = {
    "protocol": "of one value",
    "name": "names the run",
    "model.backbone": "tests/simulations/test_families.py",
    "model.pretrained": "tests/common/study/test_build.py",
    "model.train": "tests/common/model/test_classifier.py",
    "model.neck": "tests/simulations/test_fit_neck.py",
    "model.weights": "tests/common/model/test_weights.py",
    "model.weights_sha256": "tests/common/model/test_weights.py",
    "federation.mode": "tests/simulations/test_baselines.py",
    "federation.start": "tests/simulations/test_one_round.py",
    "evaluation.operating_points": "tests/server/results/test_calibration.py",
    "federation.quorum": "tests/server/federation/test_rounds_lost.py",
    "federation.validate_every": "tests/server/federation/test_rounds.py",
    "federation.stop": "tests/server/federation/test_early_stop.py",
    "federation.stop.metric": "tests/server/federation/test_early_stop.py",
    "federation.stop.patience": "tests/server/federation/test_early_stop.py",
    "federation.deadline_seconds": "tests/server/flower/test_channel.py",
    "federation.largest_clinic": "tests/server/aggregation/test_robust.py",
    "federation.largest_update_norm": "tests/server/aggregation/test_robust.py",
    "federation.robust_trim": "tests/server/aggregation/test_robust.py",
    "federation.robust_byzantine": "tests/server/aggregation/test_robust.py",
    "federation.grace_seconds": "tests/server/flower/test_channel.py",
    "privacy.unit": "tests/client/privacy/test_units.py",
    "privacy.epsilon": "tests/client/privacy/test_plan.py",
    "privacy.noise_multiplier": "tests/client/training/test_private.py",
    "privacy.delta": "tests/client/privacy/test_plan.py",
    "privacy.recipe": "tests/common/study/test_recipe.py",
    "privacy.patients": "tests/common/study/test_recipe.py",
    "privacy.sampling_rate": "tests/client/training/test_private.py",
    "privacy.views": "tests/client/training/test_private.py",
    "privacy.evaluation": "tests/client/worker/test_private_worker.py",
    "evaluation.local_baseline": "tests/simulations/test_local_baseline.py",
    "evaluation.subgroups": "tests/server/results/test_subgroups.py",
    "resources.cpus": "tests/simulations/engine/test_engine.py",
    "resources.gpus": "tests/simulations/engine/test_engine.py",
}
"""Keys that a short healthy run of one small network cannot show, with the test that does."""

OF_THE_DATA = ("data.", "partition.")
"""Sections whose keys decide what the clinics hold: tests/simulations/partition/test_virtual_clinics.py and
test_partition.py."""


def study_of(*parts: Mapping[str, object]) -> StudyProtocol:
    content: dict[str, object] = {}
    for key, value in {key: value for part in parts for key, value in part.items()}.items():
        *sections, name = key.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return StudyProtocol.model_validate_json(json.dumps(content))


@pytest.fixture(scope="module")
def model_of(
    phantom_clinics: VirtualClinics, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[StudyProtocol], Tensors]:
    """What a federation of three clinics ends with, each study run once."""

    @cache
    def run(text: str) -> Tensors:
        study = StudyProtocol.model_validate_json(text)
        folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", study)
        return federate_here(study, phantom_clinics.clinics, folder).models[""]

    return lambda study: run(study.model_dump_json())


def distance(one: Tensors, two: Tensors) -> float:
    if any(tensor.shape != two[name].shape for name, tensor in one.items()):
        return float("inf")
    return max(float(np.abs(tensor - two[name]).max(initial=0)) for name, tensor in one.items())


def test_every_key_is_varied_or_shown_elsewhere() -> None:
    known = {name for name, _, _ in documented_keys() if not name.startswith(OF_THE_DATA) and name != "privacy"}
    assert known == SEEN.keys() | SEEN_IN_PRIVATE.keys() | ELSEWHERE.keys()
    root = Path(__file__).resolve().parents[3]
    assert not [place for place in ELSEWHERE.values() if place.startswith("tests/") and not (root / place).is_file()]


def test_every_key_of_a_rule_is_varied_where_nothing_reads_it() -> None:
    # Training on stored features needs pretrained weights: see below; and so does one round.
    others = {key for rule in RULES if rule.keys != TRAINING_ALONE for key in rule.keys}
    assert others == IDLE.keys() | IDLE_IN_PRIVATE.keys() | {"training.augment"}
    assert set(TRAINING_ALONE) == IDLE_IN_ONE_ROUND.keys()


IDLE_IN_ONE_ROUND: dict[str, object] = {
    "training.optimizer": "sgd",
    "training.learning_rate": 0.1,
    "training.schedule": "cosine",
    "training.warmup_steps": 1,
    "training.gradient_norm": 0.1,
    "training.weight_decay": 0.5,
    "training.momentum": 0.5,
    "training.batch_size": 2,
    "training.local_epochs": 3.0,
    "training.augment": False,
    "federation.start": "one_round",
    "federation.algorithm": "fedadam",
    "federation.proximal_mu": 1.0,
    "federation.server_learning_rate": 0.5,
    "federation.server_momentum": 0.1,
    "federation.server_beta2": 0.5,
    "federation.server_tau": 0.1,
    "federation.cohort": 0.5,
    "federation.validate_every": 7,
    "federation.tail_average": 0.9,
    "federation.stop": {"patience": 1},
    "federation.largest_update_norm": 1e-6,
    "federation.clip_update_norm": 1e-6,
    "federation.robust": "median",
    "federation.robust_trim": 0.2,
    "federation.robust_byzantine": 2,
    "privacy.clipping": "normalised",
    "privacy.clipping_norm": 0.01,
    "privacy.views": 3,
    "model.dropout": 0.5,
}


def test_a_sealed_study_of_one_round_is_read_again_as_any_author_s_file(tmp_path: Path) -> None:
    stated = {"model.neck": 3, "federation.mode": "one_round", "privacy.unit": "patient", "privacy.epsilon": 3.0}
    study, _ = resolve(study_of(stated))
    path = tmp_path / "sealed.yaml"
    path.write_text(study_yaml(study))
    assert read_study(path).digest == study.digest


def test_keys_of_training_are_idle_in_one_round_to_the_bit(phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    public = finished_run(tmp_path / "public", public_model(neck=3))
    stated = {
        "data.image_size": 32,
        "model.backbone": "simple_cnn",
        "model.neck": 3,
        "model.train": "head",
        "model.weights": str(public),
        "federation.mode": "one_round",
        "federation.rounds": 1,
        "privacy.unit": "image",
        "privacy.noise_multiplier": 0.0,
        "privacy.recipe": "manual",
        "privacy.evaluation": "public",
    }

    def model_of(name: str, *changes: Mapping[str, object]) -> Tensors:
        study = seal(study_of(stated, *changes))
        folder = RunFolder.create(tmp_path / name, study)
        return dict(federate_here(study, phantom_clinics.clinics, folder).models[""])

    # One after another a minute would pass: all of them at once change nothing either.
    study = study_of(stated, IDLE_IN_ONE_ROUND)
    assert set(IDLE_IN_ONE_ROUND) <= dict(idle(study)).keys()
    assert distance(model_of("as-it-is"), model_of("changed", IDLE_IN_ONE_ROUND)) == 0
    assert distance(model_of("weighed", {"training.positive_weight": 3.0}), model_of("again")) > 0


@pytest.mark.parametrize("key", SEEN)
def test_a_key_that_is_read_makes_another_model(key: str, model_of: Callable[[StudyProtocol], Tensors]) -> None:
    value, besides = SEEN[key]
    one, two = study_of(SMALL, besides), study_of(SMALL, besides, {key: value})
    assert key not in dict(idle(two))
    assert distance(model_of(one), model_of(two)) > 1e-5


@pytest.mark.parametrize("key", IDLE)
def test_a_key_that_is_idle_makes_the_same_model_to_the_bit(
    key: str, model_of: Callable[[StudyProtocol], Tensors]
) -> None:
    value, besides = IDLE[key]
    one, two = study_of(SMALL, besides), study_of(SMALL, besides, {key: value})
    assert key in dict(idle(two))
    assert one.digest != two.digest
    assert distance(model_of(one), model_of(two)) == 0


@pytest.mark.parametrize("key", SEEN_IN_PRIVATE)
def test_a_key_that_a_private_study_reads_makes_another_model(
    key: str, model_of: Callable[[StudyProtocol], Tensors]
) -> None:
    value, besides = SEEN_IN_PRIVATE[key]
    one, two = study_of(PRIVATE, besides), study_of(PRIVATE, besides, {key: value})
    assert key not in dict(idle(two))
    assert distance(model_of(one), model_of(two)) > 1e-5


@pytest.mark.parametrize("key", IDLE_IN_PRIVATE)
def test_a_key_that_is_idle_in_a_private_study_makes_the_same_model(
    key: str, model_of: Callable[[StudyProtocol], Tensors]
) -> None:
    value, besides = IDLE_IN_PRIVATE[key]
    one, two = study_of(PRIVATE, besides), study_of(PRIVATE, besides, {key: value})
    assert key in dict(idle(two))
    # Units are summed in a random order, which the operating system draws: the last digits differ from run to run.
    assert distance(model_of(one), model_of(two)) < 1e-6


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "federation: {proximal_mu: 0.1}",
            "1: federation.proximal_mu would have no effect: it is for federation.algorithm ditto, or fedprox with "
            "more than one step a round alone, and federation.algorithm is fedavg; leave it out, or change "
            "federation.algorithm",
        ),
        (
            "name: a\nfederation:\n  server_learning_rate: 1.0",
            "3: federation.server_learning_rate would have no effect: it is for federation.algorithm fedavgm, fedadam "
            "and fedyogi alone, and federation.algorithm is fedavg; leave it out, or change federation.algorithm",
        ),
        ("federation: {server_momentum: 0.9}", "1: federation.server_momentum would have no effect"),
        ("partition: {alpha: 0.5}", "1: partition.alpha would have no effect: it is for partition.by label_dirichlet"),
        ("training: {momentum: 0.9}", "1: training.momentum would have no effect: it is for training.optimizer sgd"),
        (
            "privacy: {unit: patient, epsilon: 3}\ntraining: {augment: true, batch_size: 8}",
            "2: training.batch_size would have no effect: it is for studies without privacy alone, and privacy.unit is",
        ),
        (
            "privacy: {unit: patient, epsilon: 3}\ntraining: {augment: true}",
            "2: training.augment would have no effect: it is for studies without privacy, or that train more than",
        ),
        ("federation: {quorum: 1, grace_seconds: 5}", "1: federation.grace_seconds would have no effect"),
        ("federation: {robust: median, robust_trim: 0.1}", "1: federation.robust_trim would have no effect"),
    ],
)
def test_a_stated_key_without_effect_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(StudyError) as refused:
        read_study(path)
    assert str(refused.value).startswith(f"{path}:{said}")
    assert "\n" not in str(refused.value)
    assert recorded_study(path)


def test_a_key_that_is_set_by_the_command_is_refused_by_its_option(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a")
    with pytest.raises(
        StudyError, match=r"^--set federation.proximal_mu=0.1: federation.proximal_mu would have no eff"
    ):
        read_study(path, ["federation.proximal_mu=0.1"])
    assert read_study(path, ["federation.proximal_mu=0.1", "federation.algorithm=fedprox"])


def test_what_the_recipe_chooses_decides_what_is_read(tmp_path: Path) -> None:
    """The recipe's fedavgm reads a momentum, and its sgd likewise; of fedavg nothing does."""
    private = "privacy: {unit: patient, epsilon: 3}\nfederation: {server_momentum: 0.5}\ntraining: {momentum: 0.5}"
    path = written(tmp_path, private)
    assert read_study(path)
    path.write_text(private.replace("{server_momentum", "{algorithm: fedavg, server_momentum"), encoding="utf-8")
    with pytest.raises(StudyError, match=r"2: federation.server_momentum .* federation.algorithm is fedavg;"):
        read_study(path)


def test_what_a_command_leaves_idle_of_a_file_is_no_error_of_its_author(tmp_path: Path) -> None:
    """`--set training.optimizer=adamw` on a file with sgd and its momentum, to compare the two."""
    path = written(tmp_path, "training: {optimizer: sgd, momentum: 0.5}\nfederation: {rounds: 3}")
    study = read_study(path, ["training.optimizer=adamw"])
    assert idle_values(study) == {"training.momentum": 0.5}
    with pytest.raises(StudyError, match=r"^--set training.momentum=0.7: training.momentum would have no effect"):
        read_study(path, ["training.optimizer=adamw", "training.momentum=0.7"])
    assert read_study(path, ["privacy={unit: patient, epsilon: 3}", "training.optimizer=adam"])


@pytest.mark.parametrize("mode", ["central", "local"])
def test_the_same_file_is_run_in_each_mode_and_what_the_mode_leaves_idle_is_told(tmp_path: Path, mode: str) -> None:
    text = "federation: {algorithm: fedavgm, server_momentum: 0.5, rounds: 9}\nresources: {cpus: 2}"
    path = written(tmp_path, text)
    study = read_study(path, [f"federation.mode={mode}"])
    assert idle_values(read_study(path)) == {}
    assert idle_values(study) == {
        "federation.algorithm": "fedavgm",
        "federation.server_momentum": 0.5,
        "resources.cpus": 2.0,
    }
    wrong = written(tmp_path, text.replace("fedavgm", "fedavg"))
    with pytest.raises(StudyError, match=r"federation.server_momentum would have no effect"):
        read_study(wrong, [f"federation.mode={mode}"])


def test_no_rule_is_about_a_key_that_there_is_not() -> None:
    known = {name for name, _, _ in documented_keys()}
    assert {key for rule in RULES for key in (*rule.keys, *rule.because)} | set(FEDERATED_ALONE) <= known


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
@pytest.mark.parametrize("mode", ["federated", "central", "local"])
def test_studies_of_the_project_have_no_idle_key_in_any_mode(path: Path, mode: str, tmp_path: Path) -> None:
    study = resolve(read_study(path))[0]
    if study.privacy is not None and mode != "federated":
        study = study.model_copy(update={"privacy": None})
    study = study.with_changes("federation", mode=mode)
    assert recorded_study(written(tmp_path, study_yaml(study))).digest == study.digest


values = {
    "optimizer": st.sampled_from(["adamw", "sgd"]),
    "algorithm": st.sampled_from(["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi"]),
    "robust": st.sampled_from(["none", "trimmed_mean", "krum"]),
    "mode": st.sampled_from(["federated", "central", "local"]),
    "momentum": st.sampled_from([0.9, 0.5]),
    "mu": st.sampled_from([0.01, 1.0]),
    "rate": st.sampled_from([None, 1.0, 0.01]),
    "backbone": st.sampled_from(["simple_cnn", "resnet18"]),
    "dropout": st.sampled_from([None, 0.0, 0.4]),
    "private": st.booleans(),
}


@given(**values)
@settings(deadline=None)
def test_what_is_written_down_is_the_study_and_names_no_idle_default(
    tmp_path_factory: pytest.TempPathFactory, **drawn: object
) -> None:
    privacy = {"unit": "patient", "epsilon": 3.0, "recipe": "manual", "patients": 77}
    private = drawn["private"] and drawn["mode"] == "federated"
    study = study_of(
        {"training.optimizer": drawn["optimizer"], "training.momentum": drawn["momentum"]},
        {"model.backbone": drawn["backbone"], "model.dropout": drawn["dropout"], "federation.mode": drawn["mode"]},
        {"federation.algorithm": drawn["algorithm"], "federation.robust": drawn["robust"]},
        {"federation.proximal_mu": drawn["mu"], "federation.server_learning_rate": drawn["rate"]},
        {"privacy": privacy} if private else {},
    )
    content = in_force(study)
    assert recorded_study(written(tmp_path_factory.mktemp("written"), study_yaml(study))).digest == study.digest
    stated = {f"{section}.{key}" for section, keys in content.items() if isinstance(keys, dict) for key in keys}
    assert stated & idle_keys(study) <= idle_values(study).keys()
    assert content["model"]["dropout"] == study.model.dropout_rate
    if "server_learning_rate" in content["federation"]:
        assert content["federation"]["server_learning_rate"] == study.federation.server_rate
    assert all(value_of(study, key) is not None for key in idle_values(study))
