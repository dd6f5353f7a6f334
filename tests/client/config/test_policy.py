"""The clinic's policy: every limit holds at, below and above its value, and what is declined is told in one line."""

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from melfed.client.config.clinic import read_policy
from melfed.client.config.policy import DEFAULT_DELTA, ClinicPolicy, budget, check_study, check_tensors_may_leave
from melfed.client.ledger.budget import Budget
from melfed.common.errors import BudgetError, DeclinedError, PolicyError
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from melfed.common.yaml_file import REQUIRED, model_keys

EXAMPLE = Path(__file__).resolve().parents[3] / "client" / "clinic.example.yaml"
DIGEST = "0123456789abcdef" * 4


def policy(**limits: object) -> ClinicPolicy:
    return ClinicPolicy(**{"epsilon": 3.0, "studies": "any", **limits})


def study(**privacy: object) -> StudyProtocol:
    return StudyProtocol(name="demo", privacy=PrivacySpec(**{"unit": "patient", "epsilon": 3.0, **privacy}))


def objection(limits: ClinicPolicy, asked: StudyProtocol, sigma: float = 1.0) -> str:
    """What the clinic declines, without the part that is the same always; empty where it does not."""
    try:
        check_study(limits, asked, sigma)
    except DeclinedError as error:
        message = str(error)
        assert "\n" not in message
        assert message.startswith("study demo is declined: ")
        return message.removeprefix("study demo is declined: ")
    return ""


# One limit at a time.

ABOVE = [
    ({"epsilon": 3.0}, {"epsilon": 8.0}, "it asks for ε 8, more than this clinic allows for its data"),
    ({"epsilon": 3.0}, {"epsilon": 3.0000000001}, "it asks for ε 3.0000000001, more than this clinic allows"),
    ({"delta": 1e-6}, {"delta": 1e-5}, "it asks for δ 1e-05, this clinic allows at most 1e-06"),
    ({"clipping_norm": 1.0}, {"clipping_norm": 1.5}, "its clipping norm C is 1.5, this clinic allows at most 1"),
    (
        {"smallest_clipping_norm": 0.5},
        {"clipping_norm": 0.4},
        "its clipping norm C is 0.4, this clinic allows no less than 0.5",
    ),
    ({}, {"clipping_norm": 1e-6}, "its clipping norm C is 1e-06, this clinic allows no less than 0.001"),
    ({}, {"views": 17}, "it takes 17 augmented views, this clinic allows at most 16"),
    ({}, {"unit": "lesion"}, "it protects each lesion, this clinic allows no unit weaker than the patient"),
    ({}, {"unit": "image"}, "it protects each image, this clinic allows no unit weaker than the patient"),
    (
        {"unit": "lesion"},
        {"unit": "image"},
        "it protects each image, this clinic allows no unit weaker than the lesion",
    ),
    ({}, {"evaluation": "public"}, "it declares the images public that it evaluates on, and this clinic's are not"),
]

WITHIN = [
    ({"epsilon": 3.0}, {"epsilon": 3.0}),
    ({"epsilon": 3.0}, {"epsilon": 2.9}),
    ({"epsilon": 0.1}, {"epsilon": None, "noise_multiplier": 1.0}),
    ({"delta": 1e-5}, {"delta": 1e-5}),
    ({"delta": 1e-5}, {"delta": 1e-6}),
    ({"clipping_norm": 1.0}, {"clipping_norm": 1.0}),
    ({"clipping_norm": 1.0}, {"clipping_norm": 0.5}),
    ({"smallest_clipping_norm": 0.5}, {"clipping_norm": 0.5}),
    ({}, {"clipping_norm": 1e-3}),
    ({}, {"views": 16}),
    ({}, {"unit": "patient"}),
    ({"unit": "lesion"}, {"unit": "patient"}),
    ({"unit": "lesion"}, {"unit": "lesion"}),
    ({"unit": "image"}, {"unit": "patient"}),
    ({"unit": "image"}, {"unit": "lesion"}),
    ({"unit": "image"}, {"unit": "image"}),
    ({"public_evaluation": True}, {"evaluation": "public"}),
    ({"public_evaluation": True}, {"evaluation": "noised"}),
]


@pytest.mark.parametrize(("limits", "asked", "expected"), ABOVE)
def test_what_exceeds_a_limit_is_declined(limits: dict[str, object], asked: dict[str, object], expected: str) -> None:
    assert objection(policy(**limits), study(**asked)).startswith(expected)


@pytest.mark.parametrize(("limits", "asked"), WITHIN)
def test_what_is_at_or_within_a_limit_passes(limits: dict[str, object], asked: dict[str, object]) -> None:
    assert objection(policy(**limits), study(**asked)) == ""


@pytest.mark.parametrize("sigma", [0.5, 0.6, 100.0, math.inf])
def test_noise_of_at_least_the_limit_passes(sigma: float) -> None:
    assert objection(policy(noise_multiplier=0.5), study(), sigma) == ""


@pytest.mark.parametrize(
    ("sigma", "shown"), [(0.0, "0"), (0.4, "0.4"), (math.nextafter(0.5, 0), "0.49999999999999994"), (math.nan, "nan")]
)
def test_too_little_noise_is_declined(sigma: float, shown: str) -> None:
    expected = f"its noise multiplier σ is {shown}, this clinic allows no less than 0.5"
    assert objection(policy(noise_multiplier=0.5), study(), sigma) == expected


def test_no_noise_passes_under_no_policy() -> None:
    with pytest.raises(ValidationError):
        policy(noise_multiplier=0.0)
    smallest = policy(noise_multiplier=5e-324, epsilon=1e4)
    assert "σ is 0, " in objection(smallest, study(epsilon=None, noise_multiplier=0.0), 0.0)


def test_a_study_must_be_approved_by_its_digest() -> None:
    asked = study()
    assert objection(policy(studies=(DIGEST, asked.digest)), asked) == ""
    for studies in ((), (DIGEST,)):
        assert objection(policy(studies=studies), asked) == f"it is not approved here (digest {asked.digest})"
    changed = asked.with_changes("training", learning_rate=0.1)
    assert "not approved" in objection(policy(studies=(asked.digest,)), changed)


def test_without_a_privacy_section_nothing_trains_unless_the_clinic_says_so() -> None:
    bare = StudyProtocol(name="demo")
    assert objection(policy(), bare) == "it has no privacy section, and this clinic trains nothing without one"
    assert objection(policy(non_private=True), bare, 0.0) == ""
    assert "not approved" in objection(policy(non_private=True, studies=()), bare)
    assert "asks for ε 8" in objection(policy(non_private=True), study(epsilon=8.0))


@pytest.mark.parametrize("kind", ["none", "public", "noised"])
def test_exact_scores_are_told_by_age_and_sex_only_where_the_clinic_allows_it(kind: str) -> None:
    asked = StudyProtocol(name="demo") if kind == "none" else study(evaluation=kind)
    allowing = {"non_private": True, "public_evaluation": True}
    told = asked.with_changes("evaluation", subgroups=("age", "source", "sex"))
    said = "it tells scores by age, sex without noise, and this clinic's are not told so"
    assert objection(policy(**allowing), told) == ("" if kind == "noised" else said)
    assert objection(policy(**allowing, exact_subgroups=True), told) == ""
    assert objection(policy(**allowing), asked.with_changes("evaluation", subgroups=("source",))) == ""


def test_all_that_is_declined_is_told_at_once() -> None:
    asked = study(epsilon=8.0, delta=1e-3, unit="image", clipping_norm=20.0, evaluation="public", views=64)
    words = ("image,", "δ 0.001,", "σ is 0.1,", "C is 20,", "public", "64 augmented views")
    for limits, first in ((policy(), "it asks for ε 8,"), (policy(studies=()), "it is not approved here")):
        message = objection(limits, asked, 0.1)
        assert message.startswith(first)
        assert [message.count(word) for word in words] == [1] * 6
        assert message.count(";") == 6


def test_a_study_that_nobody_has_approved_does_not_find_out_how_much_epsilon_is_allowed() -> None:
    told = {
        objection(policy(studies=()), study(epsilon=asked)).partition(" (digest")[0] for asked in (1.0, 3.0, 3.1, 9.0)
    }
    assert told == {"it is not approved here"}


def test_the_clinics_epsilon_is_in_the_figures_alone() -> None:
    with pytest.raises(BudgetError, match=r"^study \w+ is declined: it asks for ε 8, more than this clinic") as caught:
        check_study(policy(epsilon=2.71828), study(epsilon=8.0), 1.0)
    assert "2.71828" not in str(caught.value)
    assert caught.value.figures == "at most ε 2.71828 is allowed for this clinic's data"


# Whatever passes satisfies every limit, said once more in other words; and what satisfies them passes.

units = st.sampled_from(["patient", "lesion", "image"])
near = st.sampled_from([0.5, math.nextafter(1.0, 0), 1.0, math.nextafter(1.0, 2), 3.0])
deltas = st.sampled_from([1e-7, 1e-6, 1e-5])
limits_of_all_kinds = st.fixed_dictionaries(
    {
        "epsilon": near,
        "delta": deltas,
        "noise_multiplier": near,
        "clipping_norm": near,
        "unit": units,
        "views": st.integers(1, 3),
        "public_evaluation": st.booleans(),
        "non_private": st.booleans(),
    }
)
sections_of_all_kinds = st.none() | st.builds(
    PrivacySpec,
    unit=units,
    epsilon=near,
    delta=deltas,
    clipping_norm=near,
    evaluation=st.sampled_from(["noised", "public"]),
    views=st.integers(1, 3),
)
WEAKER = {"patient": {"lesion", "image"}, "lesion": {"image"}, "image": set()}


def within(limits: ClinicPolicy, asked: StudyProtocol, sigma: float) -> bool:
    """The policy said once more, in other words."""
    approved = limits.studies == "any" or set(limits.studies) & {asked.digest} != set()
    if asked.privacy is None:
        return approved and limits.non_private
    promised = asked.privacy
    return all(
        [
            approved,
            max(promised.epsilon or 0.0, limits.epsilon) == limits.epsilon,
            max(promised.delta, limits.delta) == limits.delta,
            min(sigma, limits.noise_multiplier) == limits.noise_multiplier,
            max(promised.clipping_norm, limits.clipping_norm) == limits.clipping_norm,
            promised.unit not in WEAKER[limits.unit],
            promised.evaluation == "noised" or limits.public_evaluation,
            promised.views in range(1, limits.views + 1),
        ]
    )


@settings(deadline=None, max_examples=300)
@given(limits_of_all_kinds, st.sampled_from(["any", "this", "other"]), sections_of_all_kinds, near)
def test_a_study_passes_exactly_where_it_satisfies_every_limit(
    limits: dict[str, object], approved: str, privacy: PrivacySpec | None, sigma: float
) -> None:
    asked = StudyProtocol(name="demo", privacy=privacy)
    studies = {"any": "any", "this": (DIGEST, asked.digest), "other": (DIGEST,)}[approved]
    allowed = ClinicPolicy(**limits, studies=studies)
    assert (objection(allowed, asked, sigma) == "") == within(allowed, asked, sigma)


@settings(deadline=None, max_examples=60)
@given(limits_of_all_kinds, st.data())
def test_a_study_at_every_limit_passes(limits: dict[str, object], data: st.DataObject) -> None:
    allowed = ClinicPolicy(**limits, studies="any")
    evaluation = "public" if allowed.public_evaluation else "noised"
    same = {key: limits[key] for key in ("unit", "epsilon", "delta", "clipping_norm", "views")}
    asked = {**same, "evaluation": evaluation}
    assert objection(allowed, study(**asked), allowed.noise_multiplier) == ""
    key, value = data.draw(
        st.sampled_from(
            [
                ("epsilon", allowed.epsilon * 1.01),
                ("delta", allowed.delta * 1.01),
                ("clipping_norm", allowed.clipping_norm * 1.01),
                ("evaluation", "public"),
            ]
        )
    )
    beyond = key != "evaluation" or not allowed.public_evaluation
    assert (objection(allowed, study(**{**asked, key: value}), allowed.noise_multiplier) != "") == beyond


# Tensors.


def test_every_tensor_may_leave_unless_the_clinic_says_which() -> None:
    check_tensors_may_leave(policy(), ["features.0.weight", "head.bias"])
    only_head = policy(tensors=("head.*", "branch.?.bias"))
    check_tensors_may_leave(only_head, ["head.weight", "head.bias", "branch.1.bias"])
    check_tensors_may_leave(only_head, [])
    with pytest.raises(DeclinedError) as excinfo:
        check_tensors_may_leave(only_head, iter(["head.bias", "Head.bias", "branch.10.bias"]))
    message = "2 tensors may not leave this clinic, 'Head.bias' among them; its policy allows head.*, branch.?.bias"
    assert str(excinfo.value) == message


@pytest.mark.parametrize("name", ["ahead.bias", "head", "headx", "head.bias\nx", "", "HEAD.bias"])
def test_a_pattern_fits_the_whole_name(name: str) -> None:
    with pytest.raises(DeclinedError):
        check_tensors_may_leave(policy(tensors=("head.bias",)), [name])


# What a study asks whether or not it is private.


@pytest.mark.parametrize("privacy", [None, PrivacySpec(unit="patient", epsilon=3.0)])
@pytest.mark.parametrize(
    ("limits", "sections", "expected"),
    [
        ({}, {"data": {"image_size": 513}}, "its images have 513 pixels a side, this clinic allows at most 512"),
        ({}, {"data": {"image_size": 512}}, ""),
        ({}, {"training": {"positive_weight": 1e-30}}, "it weighs a positive by 1e-30, this clinic allows 0.01 to 100"),
        ({}, {"training": {"positive_weight": 1000.0}}, "it weighs a positive by 1000, this clinic allows 0.01 to 100"),
        ({}, {"training": {"positive_weight": 100.0}}, ""),
        ({"positive_weight": 1}, {"training": {"positive_weight": 1.0}}, ""),
        ({"weights": (DIGEST,)}, {"model": {"weights_sha256": DIGEST}}, ""),
        (
            {"weights": ("f" * 64,)},
            {"model": {"weights_sha256": DIGEST}},
            "it starts from weights 0123456789ab, which are not among those that this clinic allows",
        ),
        ({"weights": (DIGEST,)}, {"model": {"pretrained": False}}, ""),
        ({}, {"protocol": 1}, "it is of protocol 1, and this clinic trains by protocol 2 alone"),
    ],
)
def test_other_keys_are_bounded_too(
    limits: dict[str, object], sections: dict[str, object], expected: str, privacy: PrivacySpec | None
) -> None:
    asked = StudyProtocol.model_validate({"name": "demo", "privacy": privacy, **sections})
    assert objection(policy(non_private=True, **limits), asked) == expected


# Whose ε binds.


def test_the_clinics_budget_is_that_of_all_studies() -> None:
    limits = policy(epsilon=5.0, delta=1e-6)
    for asked in (study(epsilon=1.0), study(epsilon=8.0), study(epsilon=None, noise_multiplier=1.0)):
        assert budget(limits, asked) == Budget(5.0, 1e-6)
    assert budget(limits, StudyProtocol()) == Budget(5.0, 1e-6)


def test_without_a_policy_the_study_binds_itself() -> None:
    assert budget(None, study(epsilon=2.0, delta=1e-4)) == Budget(2.0, 1e-4)
    assert budget(None, study(epsilon=None, noise_multiplier=1.0, delta=1e-4)) == Budget(None, 1e-4)
    assert budget(None, StudyProtocol()) == Budget(None, DEFAULT_DELTA)


# The file.


def read(folder: Path, text: str) -> ClinicPolicy:
    path = folder / "clinic.yaml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(PolicyError) as excinfo:
        read(folder, text)
    message = str(excinfo.value)
    assert "\n" not in message
    return message.replace(f"{folder}/", "")


def test_the_defaults_allow_nothing_before_a_study_is_approved(tmp_path: Path) -> None:
    limits = read(tmp_path, "policy: {epsilon: 3}")
    assert limits == ClinicPolicy(epsilon=3.0)
    assert "not approved" in objection(limits, study())
    assert "not approved" in objection(limits, StudyProtocol(name="demo"))
    assert limits.unit == "patient"
    assert not limits.public_evaluation
    assert not limits.non_private


def test_every_key_is_read(tmp_path: Path) -> None:
    text = f"""
name: north
policy:
  epsilon: 1.5
  delta: 1e-6
  noise_multiplier: 2
  clipping_norm: 3
  unit: lesion
  studies: [{DIGEST}]
  runs: 2
  tensors: [head.*]
  smallest_clipping_norm: 0.5
  weights: [{DIGEST}]
  positive_weight: 50
  views: 2
  image_size: 256
  score_bins: 512
  public_evaluation: true
  non_private: true
  exact_subgroups: true
  models: none
"""
    limits = read(tmp_path, text)
    assert limits == ClinicPolicy(
        epsilon=1.5,
        delta=1e-6,
        noise_multiplier=2.0,
        clipping_norm=3.0,
        unit="lesion",
        studies=(DIGEST,),
        runs=2,
        tensors=("head.*",),
        smallest_clipping_norm=0.5,
        weights=(DIGEST,),
        positive_weight=50.0,
        views=2,
        image_size=256,
        score_bins=512,
        public_evaluation=True,
        non_private=True,
        exact_subgroups=True,
        models="none",
    )
    assert all(getattr(limits, key) != getattr(ClinicPolicy(epsilon=9.0), key) for key in ClinicPolicy.model_fields)
    assert read(tmp_path, "policy: {epsilon: 1, studies: any}").studies == "any"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a", ": policy is missing: the limits that this clinic sets to every study"),
        ("name: a\npolicy: {}", ":2: policy.epsilon is missing: largest ε of this clinic's data over all studies toge"),
        ("policy:", ":1: policy: input should be a section with keys of its own, not null"),
        ("policy: {epsilon: 3}\nworkers: x", ":2: unknown key workers; known here: apps, coordinator, data, health_"),
        ("polcy: {epsilon: 3}", ":1: unknown key polcy; did you mean policy?"),
        ("policy: {epsilom: 3}", ":1: unknown key policy.epsilom; did you mean policy.epsilon?"),
        ("epsilon: 3", ":1: unknown key epsilon; did you mean policy.epsilon?"),
        ("policy:\n  epsilon: 3\n  qqq: 2", ":3: unknown key policy.qqq; known here: clipping_norm, delta"),
        ("policy: {epsilon: 3, study: any}", ":1: unknown key policy.study; did you mean policy.studies?"),
        ("policy: {epsilon: 0}", ":1: policy.epsilon: input should be greater than 0, not 0"),
        ("policy: {epsilon: .inf}", ":1: policy.epsilon: input should be less than or equal to 10000, not Infinity"),
        ("policy: {epsilon: .nan}", ":1: policy.epsilon: "),
        ("policy: {epsilon: three}", ':1: policy.epsilon: input should be a valid number, not "three"'),
        ("policy: {epsilon: null}", ":1: policy.epsilon: input should be a valid number, not null"),
        ("policy: {epsilon: 3, delta: 1}", ":1: policy.delta: input should be less than 1, not 1"),
        ("policy: {epsilon: 3, delta: .nan}", ":1: policy.delta: "),
        ("policy: {epsilon: 3, noise_multiplier: 0}", ":1: policy.noise_multiplier: input should be greater than 0"),
        ("policy: {epsilon: 3, noise_multiplier: .nan}", ":1: policy.noise_multiplier: "),
        ("policy: {epsilon: 3, clipping_norm: .nan}", ":1: policy.clipping_norm: "),
        (
            "policy: {epsilon: 3, unit: site}",
            ":1: policy.unit: input should be 'patient', 'lesion' or 'image', not \"si",
        ),
        ("policy: {epsilon: 3, studies: all}", ":1: policy.studies: should be a list of the digests of the approved"),
        ("policy: {epsilon: 3, studies: [any]}", ":1: policy.studies: should be a list of the digests of the approved"),
        (f"policy: {{epsilon: 3, studies: [{DIGEST[1:]}]}}", ":1: policy.studies: should be a list of the digests"),
        (f"policy: {{epsilon: 3, studies: [{DIGEST.upper()}]}}", ":1: policy.studies: should be a list of the digests"),
        (f"policy: {{epsilon: 3, studies: [{DIGEST}, {DIGEST}]}}", ":1: policy: a digest stands twice in studies"),
        ("policy: {epsilon: 3, tensors: []}", ":1: policy.tensors: tuple should have at least 1 item"),
        ("policy: {epsilon: 3, tensors: head}", ':1: policy.tensors: input should be a list, not "head"'),
        ("policy: {epsilon: 3, tensors: ['']}", ":1: policy.tensors: "),
        ("policy: {epsilon: 3, smallest_cell: 9}", ":1: unknown key policy.smallest_cell"),
        (
            "policy: {epsilon: 3, smallest_clipping_norm: 20}",
            ":1: policy: smallest_clipping_norm is 20, above clipping_norm 10",
        ),
        ("policy: {epsilon: 3, public_evaluation: 1}", ":1: policy.public_evaluation: input should be a valid boolean"),
        ("policy: {epsilon: 3, non_private: maybe}", ":1: policy.non_private: input should be a valid boolean"),
        ("policy: {epsilon: 3, epsilon: 30}", ":1: key policy.epsilon stands twice (also in line 1)"),
        ("policy: {epsilon: 3", ":1: not valid YAML: "),
        ("- a", ": a clinic configuration is a mapping of keys such as 'name:' and 'policy:'"),
    ],
)
def test_a_wrong_file_names_line_key_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(f"clinic.yaml{expected}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"no such clinic configuration file$") as excinfo:
        read_policy(tmp_path / "clinic.yaml")
    assert excinfo.value.exit_code == 11


def test_the_example_names_every_key_with_its_default() -> None:
    limits = read_policy(EXAMPLE)
    assert limits == ClinicPolicy(epsilon=3.0)
    section = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["policy"]
    assert list(section) == list(ClinicPolicy.model_fields)


def test_one_key_alone_has_no_default() -> None:
    assert [key for key, default, _ in model_keys(ClinicPolicy) if default == REQUIRED] == ["epsilon"]


def test_a_policy_does_not_change() -> None:
    with pytest.raises(ValidationError):
        policy().epsilon = 100.0  # type: ignore[misc]
