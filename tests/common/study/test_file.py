"""Studies in YAML: every error is one line with place, key and what is allowed, and what is written is read back."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from melfed.common.errors import StudyError
from melfed.common.study.file import (
    documented_keys,
    read_study,
    recorded_study,
    set_key,
    stated_study,
    study_yaml,
)
from melfed.common.study.protocol import (
    DataSpec,
    FederationSpec,
    ModelSpec,
    PhantomSection,
    PrivacySpec,
    StopSpec,
    StudyProtocol,
    TrainingSpec,
)
from melfed.common.yaml_file import REQUIRED

REPOSITORY = Path(__file__).resolve().parents[3]
STUDIES = sorted((REPOSITORY / "simulations" / "studies").glob("*.yaml"))


def read(folder: Path, text: str, *overrides: str, seed: int | None = None) -> StudyProtocol:
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return read_study(path, overrides, seed)


def refusal(folder: Path, text: str, *overrides: str, seed: int | None = None) -> str:
    """The error's one line, without the folder's name."""
    with pytest.raises(StudyError) as excinfo:
        read(folder, text, *overrides, seed=seed)
    message = str(excinfo.value)
    assert "\n" not in message
    return message.replace(f"{folder}/", "")


def test_an_unmentioned_key_has_its_default(tmp_path: Path) -> None:
    assert read(tmp_path, "training: {batch_size: 8}") == StudyProtocol(training=TrainingSpec(batch_size=8))


@pytest.mark.parametrize(
    ("text", "line", "unknown", "nearest"),
    [
        ("name: a\nlerning_rate: 1", 2, "lerning_rate", "did you mean training.learning_rate?"),
        ("learning_rate: 1", 1, "learning_rate", "did you mean training.learning_rate?"),
        ("training:\n  rounds: 3", 2, "training.rounds", "did you mean federation.rounds?"),
        ("training:\n  batch_size: 2\n  lerning_rate: 3", 3, "training.lerning_rate", "training.learning_rate?"),
        ("model: {epochs: 3}", 1, "model.epochs", "did you mean training.local_epochs?"),
        ("traning: {}", 1, "traning", "did you mean training?"),
        ("clinics: 3", 1, "clinics", "did you mean data.phantom.clinics or partition.clinics?"),
        ("data: {phantom: {imges: 50}}", 1, "data.phantom.imges", "did you mean data.phantom.images?"),
        ("privacy: {unt: patient, epsilon: 1}", 1, "privacy.unt", "did you mean privacy.unit?"),
        ("resources: {zzz: 1}", 1, "resources.zzz", "known here: cpus, gpus"),
        (
            "1: a",
            1,
            "1",
            "known here: data, evaluation, federation, model, name, partition, privacy, protocol, res",
        ),
        ("data:\n  2020-01-01: a", 2, "data.2020-01-01", "known here: image_size, image_type, phantom, p"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path: Path, text: str, line: int, unknown: str, nearest: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f"s.yaml:{line}: unknown key {unknown}; ")
    assert nearest in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\ntraining:\n  batch_size: 0", "3: training.batch_size: input should be greater than or equal to 1"),
        ("training: {batch_size: ten}", '1: training.batch_size: input should be a valid integer, not "ten"'),
        ("training: {batch_size: 1.5}", "1: training.batch_size: input should be a valid integer, not 1.5"),
        ("seed: true", "1: seed: input should be a valid integer"),
        ("federation: {quorum: 1.2}", "1: federation.quorum: input should be less than or equal to 1, not 1.2"),
        ("federation: {mode: fed}", "input should be 'federated', 'one_round', 'central' or 'local', not \"fed\""),
        ("training: {learning_rate: .nan}", "1: training.learning_rate: "),
        ("training: {learning_rate: .inf}", "1: training.learning_rate: input should be less than or equal to 100"),
        ("name: 2020", "1: name: input should be a valid string, not 2020"),
        ("name: a b", "1: name: string should match pattern"),
        ("data: 3", "1: data: input should be a section with keys of its own, not 3"),
        ("data: [a]", "1: data: input should be a section with keys of its own, not"),
        ("data:", "1: data: input should be a section with keys of its own, not null"),
        ("data: {positive: mel}", '1: data.positive: input should be a list, not "mel"'),
        ("data: {positive: [1]}", "1: data.positive: input should be a valid string, not 1"),
        ("data: {positive: [melanom]}", r"1: data.positive: no diagnosis is called 'melanom' (did you mean mel?)"),
        ("data: {positive: []}", "1: data.positive: tuple should have at least 1 item"),
        ("data: {sources: 5}", "1: data.sources: should be 'all', or a list of names and patterns"),
        ("data: {sources: north}", "1: data.sources: should be 'all', or a list of names and patterns"),
        ("data: {sources: [1, 2]}", "1: data.sources: should be 'all', or a list of names and patterns"),
        ("data: {sources: []}", "1: data.sources: names no source; write 'all'"),
        ("data: {phantom: {images: 5}}", "1: data.phantom.images: input should be greater than or equal to 40, not 5"),
        ("name: a\npartition:\n  test: 0.95", "2: partition: validation + test is 1.05"),
        ("model: {backbone: resnet}", "1: model.backbone: no backbone 'resnet'; known: densenet121"),
        ("model: {pretrained: false, train: head}", "1: model: pretrained is false, so train must be full, not head"),
        ("privacy: 1", "1: privacy: input should be a section with keys of its own, not 1"),
        (
            "seed: 1\nprivacy: {epsilon: 1}",
            "2: privacy.unit is missing: whose images are protected together (patient |",
        ),
        ("privacy: {unit: patient}", "1: privacy: state epsilon or noise_multiplier: neither is stated"),
        ("protocol: 3", "1: protocol: input should be 1 or 2, not 3"),
    ],
)
def test_a_wrong_value_names_line_key_and_what_is_allowed(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith("s.yaml:")
    assert expected in refusal(tmp_path, text)


def test_a_long_wrong_value_is_cut(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, f"data: {{positive: {'x' * 5000}}}")) < 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nmodel: {train: full", ":2: not valid YAML: while parsing a flow mapping"),
        ("name: a\n\tseed: 1", ":2: not valid YAML: "),
        ("a: 1\n---\nb: 2", ":2: not valid YAML: expected a single document"),
        ("name: \x00", ": not valid YAML: unacceptable character"),
        ("name: 2020-13-45", ": not valid YAML: month must be in 1..12"),
        ("seed: " + "1" * 5000, ": not valid YAML: Exceeds the limit"),
        ("[a]: b", ":1: not valid YAML: while constructing a mapping: found unhashable key"),
        ("name: !!python/object:os.system x", ":1: not valid YAML: could not determine a constructor"),
        ("data: &a {b: *a}", ":1: not valid YAML: aliases (*name) are not allowed"),
        ("a: &a [x]\nb: *a", ":2: not valid YAML: aliases (*name) are not allowed"),
        ("[" * 3000, ": not a study: its lists or sections are nested too deeply"),
        ("name: a\nseed: 1\nname: b", ":3: key name stands twice (also in line 1)"),
        ("training:\n  momentum: 0\n  momentum: 0.5", ":3: key training.momentum stands twice (also in line 2)"),
        ("", ": a study is a mapping of keys"),
        ("- name", ": a study is a mapping of keys"),
        ("just words", ": a study is a mapping of keys"),
        ('name: "\\ud800"', ": the study: invalid JSON"),
    ],
)
def test_what_is_no_study_is_refused_in_one_line(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(f"s.yaml{expected}")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"missing\.yaml: no such study file$"):
        read_study(tmp_path / "missing.yaml")
    with pytest.raises(StudyError, match=r"cannot be read: .*Is a directory"):
        read_study(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: Köln".encode("latin-1"))
    with pytest.raises(StudyError, match="cannot be read: 'utf-8' codec"):
        read_study(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("5e-4", 5e-4), ("5.0e-4", 5e-4), ("1E-2", 1e-2), ("+.5", 0.5), ("1e+1", 10.0), ("3", 3.0)]
)
def test_numbers_are_read_as_numbers(tmp_path: Path, text: str, value: float) -> None:
    assert read(tmp_path, f"training: {{learning_rate: {text}}}").training.learning_rate == value
    assert read(tmp_path, "name: a", f"training.learning_rate={text}").training.learning_rate == value


def test_overrides(tmp_path: Path) -> None:
    study = read(
        tmp_path,
        "training: {batch_size: 8, optimizer: sgd, momentum: 0.1}\ndata: {phantom: null}",
        "training.batch_size=16",
        "data.sources=[a, '!b']",
        "data.phantom.images=100",
        "model.metadata=true",
        "partition.clinics=",
        "training.batch_size=32",
        seed=9,
    )
    assert study == StudyProtocol(
        training=TrainingSpec(batch_size=32, optimizer="sgd", momentum=0.1),
        data=DataSpec(sources=("a", "!b"), phantom=PhantomSection(images=100)),
        model=ModelSpec(metadata=True),
        seed=9,
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.batch_size", "write it as key.path=value, for example training.batch_size=32"),
        ("=3", "write it as key.path=value"),
        ("training..momentum=3", "write it as key.path=value"),
        ("training.batch_size=[1", "the value '[1' is not valid YAML"),
        ("name=2020-13-45", "the value '2020-13-45' is not valid YAML"),
        ("training.batch_size=0", "training.batch_size: input should be greater than or equal to 1, not 0"),
        ("training.batch_size=", "training.batch_size: input should be a valid integer, not null"),
        ("training.batchsize=3", "unknown key training.batchsize; did you mean training.batch_size?"),
        ("batch_size=3", "unknown key batch_size; did you mean training.batch_size?"),
        ("training=3", "training: input should be a section with keys of its own, not 3"),
        ("training={batch_size: 0}", "training.batch_size: input should be greater than or equal to 1, not 0"),
        ("name.first=x", "name is a value, not a section"),
        ("training.momentum.x=1", "training.momentum is a value, not a section"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    message = refusal(tmp_path, "name: a\ntraining:\n  batch_size: 8\n  momentum: 0.5", override)
    assert message.startswith(f"--set {override}: ")
    assert expected in message


def test_an_override_of_several_lines_is_shown_in_one(tmp_path: Path) -> None:
    assert refusal(tmp_path, "name: a", "name=a\nb").startswith("--set name=a b: name: ")


def test_a_wrong_value_in_the_file_is_placed_there_despite_overrides(tmp_path: Path) -> None:
    message = refusal(tmp_path, "name: a\nseed: -1", "training.batch_size=8")
    assert message == "s.yaml:2: seed: input should be greater than or equal to 0, not -1"


def test_the_seed_is_replaced_and_checked(tmp_path: Path) -> None:
    assert read(tmp_path, "seed: 3", seed=0).seed == 0
    assert refusal(tmp_path, "seed: 3", seed=-1).startswith("--seed -1: seed: input should be greater than or equal")


names = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Co", "Cn"], exclude_characters="\ufeff"), min_size=1, max_size=12
)
tricky = st.sampled_from(
    [
        "1e5",
        "5e-4",
        ".inf",
        "1",
        "true",
        "null",
        "~",
        "yes",
        "2020-01-01",
        "!HAM_*",
        "a: b",
        "#",
        "- x",
        "1:30",
        "'",
        "",
    ]
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(("mel", "MEL", " bcc ", "mel_in_situ")), min_size=1, max_size=4),
    st.lists(names | tricky, min_size=1, max_size=4),
    st.floats(1e-300, 100),
    st.integers(0, 2**63 - 1),
    st.booleans(),
)
def test_a_study_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    positive: list[str],
    sources: list[str],
    rate: float,
    seed: int,
    phantom: bool,
) -> None:
    data = DataSpec(
        positive=tuple(positive), sources=tuple(sources), phantom=PhantomSection(images=99) if phantom else None
    )
    study = StudyProtocol(data=data, training=TrainingSpec(learning_rate=rate), seed=seed)
    path = tmp_path_factory.mktemp("written") / "study.yaml"
    path.write_text(study_yaml(study), encoding="utf-8")
    again = read_study(path)
    assert again == study.with_sections(
        {"model": {"dropout": study.model.dropout_rate}}  # what follows from another key is written as it is in force
    )
    assert again.digest == study.digest


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_come_with_the_project_are_read(path: Path, tmp_path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    assert read(tmp_path, study_yaml(study)).digest == study.digest


def test_there_are_studies() -> None:
    assert {"demo", "ham10000"} <= {path.stem for path in STUDIES}


def test_every_key_is_documented() -> None:
    documented = {name: (default, meaning) for name, default, meaning in documented_keys()}
    with_all = StudyProtocol(
        data=DataSpec(phantom=PhantomSection()),
        federation=FederationSpec(stop=StopSpec()),
        privacy=PrivacySpec(unit="patient", epsilon=1.0),
    )
    expected = set(_paths(StudyProtocol())) | set(_paths(with_all))
    assert documented.keys() == expected
    for name, (default, meaning) in documented.items():
        assert len(meaning) > 8, name
        if default == REQUIRED:
            continue
        value = json.loads(default)
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "protocol":
            assert any(sign in meaning for sign in "≥>"), name
            assert any(sign in meaning for sign in "≤<"), name
    assert documented["model.train"] == ('"full"', "which parameters learn (head | affine | last_block | full)")
    assert "(≥ 1, ≤ 65536)" in documented["training.batch_size"][1]
    assert "(≥ 1, ≤ 10000)" in documented["partition.clinics"][1]
    assert documented["privacy.unit"] == (REQUIRED, "whose images are protected together (patient | lesion | image)")


def _paths(section: BaseModel, prefix: str = "") -> list[str]:
    paths = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        paths += _paths(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [f"{prefix}{name}"]
    return paths


def test_documented_defaults_are_the_defaults(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    for name, default, _ in documented_keys():
        if name.startswith(("data.phantom.", "federation.stop.", "privacy.")):
            continue
        *sections, key = name.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = json.loads(default)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert recorded_study(path) == StudyProtocol()


def test_a_study_may_be_stated_by_its_keys_and_their_places() -> None:
    places = {("federation",): "grid.yaml:3", ("federation", "algorithm"): "grid.yaml:4"}
    content = {"federation": {"algorithm": "fedavg", "proximal_mu": 0.1}}
    found = stated_study(content, places, "grid.yaml", lambda place: place == "grid.yaml:4")
    assert found.federation.proximal_mu == 0.1, "the key that decides was changed for one run"
    with pytest.raises(StudyError, match=r"^grid\.yaml:3: federation\.proximal_mu would have no effect"):
        stated_study(content, places, "grid.yaml", lambda _place: False)
    cannot = {"federation": {"mode": "central"}, "privacy": {"unit": "patient", "epsilon": 3.0}}
    with pytest.raises(StudyError, match=r"^grid\.yaml: cell 1: the study: privacy is for federation\.mode"):
        stated_study(cannot, {}, "grid.yaml: cell 1", lambda _place: False)


def test_a_key_is_set_in_sections_that_are_made() -> None:
    content: dict[str, object] = {"privacy": None, "seed": 1}
    set_key(content, ("privacy", "epsilon"), 3.0, "grid.yaml:2")
    set_key(content, ("model", "train"), "head", "grid.yaml:3")
    assert content == {"privacy": {"epsilon": 3.0}, "seed": 1, "model": {"train": "head"}}
    with pytest.raises(StudyError, match=r"^grid\.yaml:4: seed is a value, not a section"):
        set_key(content, ("seed", "x"), 1, "grid.yaml:4")
