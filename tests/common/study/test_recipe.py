"""The recipe: it fills in what a study leaves open, from public quantities alone, and says why."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.errors import StudyError
from melfed.common.study.file import documented_keys, read_study, study_yaml
from melfed.common.study.head_steps import Room, best_steps
from melfed.common.study.moments_noise import START_SHARE, learning_mu
from melfed.common.study.protocol import FederationSpec, PrivacySpec, StudyProtocol, TrainingSpec
from melfed.common.study.recipe import AFFINE_FROM, ASSUMED_CLINICS, FULL_FROM, Choice, resolve


def private(patients: int = 1000, epsilon: float | None = 3.0, **sections: object) -> StudyProtocol:
    privacy = {"unit": "patient", "epsilon": epsilon, "patients": patients, **sections.pop("privacy", {})}
    return StudyProtocol.model_validate({"privacy": privacy, **sections})


def value(study: StudyProtocol, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(study, section), name)


def chosen(study: StudyProtocol) -> dict[str, Choice]:
    choices = resolve(study)[1]
    assert len({choice.key for choice in choices}) == len(choices)
    return {choice.key: choice for choice in choices}


@pytest.mark.parametrize("privacy", [None, PrivacySpec(unit="patient", epsilon=3.0, recipe="manual")])
def test_without_privacy_and_by_hand_nothing_is_chosen(privacy: PrivacySpec | None) -> None:
    study = StudyProtocol(privacy=privacy)
    assert resolve(study) == (study, ())


def test_what_was_chosen_is_in_the_study() -> None:
    study, choices = resolve(private())
    assert len(choices) > 10
    for choice in choices:
        assert value(study, choice.key) == choice.value, choice.key
    assert study.privacy is not None
    assert study.privacy.recipe == "manual"


def test_every_choice_is_a_key_of_the_protocol_with_a_reason_in_one_line() -> None:
    keys = {key for key, _, _ in documented_keys()}
    for study in (private(), private(10**6), private(model={"neck": 64}), private(model={"pretrained": False})):
        for key, choice in chosen(study).items():
            assert key in keys
            assert len(choice.reason) > 10
            assert "\n" not in choice.reason


# Each regime: patients times ε decide what can be trained.


@pytest.mark.parametrize(
    ("patients", "epsilon", "part"),
    [
        (1000, 3.0, "head"),
        (1000, AFFINE_FROM / 1000 - 0.01, "head"),
        (1000, AFFINE_FROM / 1000, "affine"),
        (100_000, FULL_FROM / 100_000 - 0.01, "affine"),
        (100_000, FULL_FROM / 100_000, "full"),
        (int(AFFINE_FROM) - 1, None, "head"),  # a study that states σ counts as one of ε = 1
        (int(AFFINE_FROM), None, "affine"),
    ],
)
def test_more_patients_or_a_larger_epsilon_leave_room_for_more(patients: int, epsilon: float | None, part: str) -> None:
    sigma = {"noise_multiplier": None if epsilon else 1.0}
    study = private(patients, epsilon, privacy=sigma)
    assert chosen(study)["model.train"].value == part
    assert resolve(study)[0].model.train == part
    assert f"{patients:,} patients a clinic at ε {epsilon or 1.0:g}" in chosen(study)["model.train"].reason


def test_a_network_from_scratch_is_trained_whole() -> None:
    study, choices = resolve(private(10, 0.1, model={"backbone": "simple_cnn", "pretrained": False}))
    assert study.model.train == "full"
    assert "from scratch" in next(choice.reason for choice in choices if choice.key == "model.train")


def test_the_learning_rate_goes_with_what_is_trained() -> None:
    rates = {
        (part, neck): resolve(private(model={"train": part, "neck": neck}))[0].training.learning_rate
        for part in ("head", "affine", "full")
        for neck in (None, 64)
    }
    assert rates["head", None] < rates["affine", None] == rates["full", None] < rates["head", 64]
    assert rates["affine", 64] == rates["affine", None]
    # The same whether the part was stated or chosen.
    assert resolve(private())[0].training.learning_rate == rates["head", None]
    assert resolve(private(10**6))[0].training.learning_rate == rates["full", None]


def test_one_validation_is_made_whatever_the_number_of_rounds() -> None:
    for federation in ({}, {"rounds": 7}, {"rounds": 500}):
        study = resolve(private(federation=federation))[0]
        assert study.federation.validate_every == study.federation.rounds


# What the study states stays.

OTHER = {
    "model.train": "full",
    "training.learning_rate": 0.123,
    "privacy.clipping_norm": 0.5,
    "privacy.sampling_rate": 0.25,
    "privacy.steps": 3,
    "federation.rounds": 7,
    "federation.algorithm": "fedadam",
    "federation.server_momentum": 0.5,
    "federation.tail_average": 0.25,
    "federation.validate_every": 2,
    "training.optimizer": "adam",
    "training.momentum": 0.7,
    "training.warmup_steps": 3,
    "training.gradient_norm": 9.0,
    "training.weight_decay": 0.2,
    "training.schedule": "cosine",
    "training.augment": True,
}
"""Another value of every key that the recipe governs."""


def stating(keys: set[str]) -> StudyProtocol:
    sections: dict[str, dict[str, object]] = {}
    for key in keys:
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = OTHER[key]
    return private(**sections)


def test_another_value_is_known_of_every_key_that_the_recipe_governs() -> None:
    assert chosen(private()).keys() == OTHER.keys()


@given(st.sets(st.sampled_from(sorted(OTHER))))
@settings(deadline=None, max_examples=50)
def test_stated_keys_are_kept_and_all_others_are_chosen(keys: set[str]) -> None:
    study, choices = resolve(stating(keys))
    # Adam has no momentum, so there is none to choose.
    idle = {"training.momentum"} if "training.optimizer" in keys else set()
    assert {choice.key for choice in choices} == OTHER.keys() - keys - idle
    for key in keys:
        assert value(study, key) == OTHER[key]


def test_a_stated_default_is_kept_too() -> None:
    defaults = {"federation": {"rounds": FederationSpec().rounds}, "training": {"momentum": TrainingSpec().momentum}}
    open_, stated = resolve(private())[0], resolve(private(**defaults))[0]
    assert stated.federation.rounds == FederationSpec().rounds != open_.federation.rounds
    assert stated.training.momentum == TrainingSpec().momentum != open_.training.momentum


def test_a_study_in_a_file_and_its_changes_count_as_stated(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("privacy: {unit: patient, epsilon: 3}\ntraining: {momentum: 0.9}\n")
    study = read_study(path, ["federation.rounds=5"])
    keys = chosen(study).keys()
    assert OTHER.keys() - keys == {"training.momentum", "federation.rounds"}


# Nothing but public quantities, and once is enough.


@given(
    patients=st.integers(1, 10**7),
    epsilon=st.floats(0.01, 100),
    part=st.sampled_from(["head", "affine", "last_block", "full", None]),
    pretrained=st.booleans(),
    neck=st.sampled_from([None, 8]),
)
@settings(deadline=None, max_examples=80)
def test_resolving_twice_is_resolving_once(
    patients: int, epsilon: float, part: str | None, pretrained: bool, neck: int | None
) -> None:
    model = {"pretrained": pretrained}
    if pretrained:
        model |= {"neck": None if part == "last_block" else neck, **({"train": part} if part else {})}
    study = private(patients, epsilon, model=model)
    once, _ = resolve(study)
    assert resolve(once) == (once, ())
    assert StudyProtocol.model_validate_json(once.model_dump_json()) == once
    assert resolve(study) == resolve(study)


def test_a_resolved_study_is_the_same_study_after_its_file(tmp_path: Path) -> None:
    study, _ = resolve(private())
    path = tmp_path / "study.yaml"
    path.write_text(study_yaml(study))
    again, choices = resolve(read_study(path))
    assert (again.digest, choices) == (study.digest, ())


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("data", {"image_size": 64, "sources": ("a",)}),
        ("partition", {"by": "iid", "clinics": 3}),
        ("privacy", {"delta": 1e-7, "views": 3, "evaluation": "public"}),
        ("resources", {"cpus": 2.0}),
    ],
)
def test_choices_look_at_nothing_else(section: str, changes: dict[str, object]) -> None:
    assert chosen(private(**{section: changes})) == chosen(private())
    assert chosen(private(name="another", seed=5)) == chosen(private())


# A head on a neck: steps by the rule of `melfed.common.study.head_steps`.


def steps_of(study: StudyProtocol) -> tuple[int, float, float, float]:
    federation = study.federation
    return federation.rounds, study.training.learning_rate, federation.server_momentum, federation.tail_average


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0, 8.0])
@pytest.mark.parametrize(("clinics", "start"), [(None, "public"), (40, "public"), (None, "one_round")])
def test_a_head_on_a_neck_takes_the_steps_of_least_expected_loss(
    epsilon: float, clinics: int | None, start: str
) -> None:
    partition = {"by": "iid", "clinics": clinics} if clinics else {}
    study = resolve(private(700, epsilon, model={"neck": 32}, partition=partition, federation={"start": start}))[0]
    share = START_SHARE if start == "one_round" else 0.0
    assert study.privacy is not None
    best = best_steps(Room(32, 700, clinics or ASSUMED_CLINICS, learning_mu(study.privacy), share))
    assert steps_of(study) == (best.rounds, best.rate, best.momentum, best.average)
    assert study.model.train == "head"


def test_metadata_are_features_of_the_rule() -> None:
    with_them = resolve(private(300, 3.0, model={"neck": 64, "metadata": True}))[0]
    assert with_them.privacy is not None
    best = best_steps(Room(64 + METADATA_FEATURES, 300, ASSUMED_CLINICS, learning_mu(with_them.privacy)))
    assert steps_of(with_them) == (best.rounds, best.rate, best.momentum, best.average)


def test_of_stated_rounds_the_rest_is_the_best() -> None:
    study = resolve(private(700, 3.0, model={"neck": 32}, federation={"rounds": 7}))[0]
    assert study.privacy is not None
    best = best_steps(Room(32, 700, ASSUMED_CLINICS, learning_mu(study.privacy)), (7,))
    assert steps_of(study) == (7, best.rate, best.momentum, best.average)


def test_moments_before_rounds_leave_nothing_else_open_to_choice() -> None:
    for section, key, value in (("model", "train", "affine"), ("privacy", "sampling_rate", 0.5)):
        stated = {"neck": 8, key: value} if section == "model" else {"neck": 8}
        privacy = {key: value} if section == "privacy" else {}
        with pytest.raises(StudyError, match=rf"{section}\.{key} is {value}, and federation.start one_round has"):
            resolve(private(model=stated, privacy=privacy, federation={"start": "one_round"}))


@pytest.mark.parametrize(("patients", "epsilon", "pays"), [(100, 0.5, False), (20_000, 8.0, True)])
def test_the_reason_says_whether_a_solved_start_pays(patients: int, epsilon: float, pays: bool) -> None:
    reason = chosen(private(patients, epsilon, model={"neck": 64}, federation={"start": "one_round"}))[
        "federation.rounds"
    ].reason
    times = float(reason.rpartition("solved head it is ")[2].partition(" times")[0])
    assert (times < 1) == pays
