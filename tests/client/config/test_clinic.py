"""clinic.yaml: one schema, found in four places, and said in one line where something is missing."""

import stat
from pathlib import Path

import pytest
import yaml

import melfed.client.config.clinic
from melfed.client.config.clinic import ClinicFile, find_clinic, read_clinic, read_policy
from melfed.common.errors import PolicyError
from melfed.common.yaml_file import REQUIRED, model_keys
from tests.client.clinics import a_clinic, clinic_text

EXAMPLE = Path(__file__).resolve().parents[3] / "client" / "clinic.example.yaml"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a clinic.yaml, on a machine that has none."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("MELFED_CLINIC", raising=False)
    monkeypatch.setattr(melfed.client.config.clinic, "PLACES", (Path("clinic.yaml"), tmp_path / "etc" / "clinic.yaml"))
    return here


def refusal(folder: Path, text: str) -> str:
    (folder / "clinic.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        read_clinic(folder / "clinic.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{folder}/")


def leaves(content: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in content.items():
        inner = leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        found |= inner
    return found


def test_the_example_states_every_key_with_its_default() -> None:
    stated = leaves(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))
    sections = {"coordinator", "data"}
    assert set(stated) == {key for key, _, _ in model_keys(ClinicFile)} - sections
    config = read_clinic(EXAMPLE)
    assert config.file.model_copy(update={"name": None, "coordinator": None, "data": None}) == ClinicFile(
        policy=config.policy
    )
    assert config.coordinator.port == 443
    assert config.data.sources == "all"
    assert [k for k, d, _ in model_keys(ClinicFile) if d == REQUIRED] == [
        "coordinator.host",
        "data.folder",
        "policy.epsilon",
    ]


def test_the_example_says_something_of_every_key() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            section = line.rstrip().endswith(":")
            assert section or lines[number - 1].lstrip().startswith("#"), line


@pytest.mark.parametrize("missing", ["name", "coordinator", "data"])
def test_a_deployed_clinic_needs_name_coordinator_and_data(tmp_path: Path, missing: str) -> None:
    content = yaml.safe_load(clinic_text())
    del content[missing]
    said = refusal(tmp_path, yaml.safe_dump(content))
    assert said.startswith(f"clinic.yaml: {missing} is missing: ")
    path = tmp_path / "clinic.yaml"
    assert read_policy(path).epsilon == 3.0
    lenient = read_clinic(path, complete=False)
    with pytest.raises(PolicyError, match=f"{missing} is missing"):
        getattr(lenient, missing)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"name": "../north"}, "name: "),
        ({"name": "a" * 65}, "name: "),
        ({"coordinator": {"host": "h", "port": 0}}, "coordinator.port: input should be greater than or equal to 1"),
        ({"coordinator": {"port": 443}}, "coordinator.host is missing: name or address of the coordinator's server"),
        ({"data": {"folder": ""}}, "data.folder: "),
        ({"resources": {"device": "gpu"}}, "resources.device: "),
        ({"apps": ["abc"]}, "apps: "),
        ({"health_port": "none"}, "health_port: "),
        ({"tell": {"budget": "yes"}}, "tell.budget: "),
        ({"messanger": {}}, "unknown key messanger; did you mean messenger?"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(tmp_path: Path, sections: dict[str, object], expected: str) -> None:
    assert expected in refusal(tmp_path, clinic_text(**sections))


def test_paths_are_relative_to_the_file_and_stay_where_they_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    kit = tmp_path / "kit"
    config = a_clinic(kit, state="s", weights=str(tmp_path / "w"), data={"folder": "~/images"})
    assert config.ledger == kit / "s" / "worker" / "ledger.jsonl"
    assert config.weights == tmp_path / "w"
    assert config.data_folder == tmp_path / "home" / "images"
    assert config.node_key == kit / "node.key"
    (tmp_path / "link.yaml").symlink_to(kit / "clinic.yaml")
    assert read_clinic(tmp_path / "link.yaml").folder == kit


def test_worker_and_messenger_share_nothing_but_the_socket_folder(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    private = [config.ledger, config.audit_log, config.approvals, config.cache]
    assert all(path.is_relative_to(config.worker_state) for path in private)
    carried = [config.superexec_secret, config.messenger_audit_log]
    assert all(path.is_relative_to(config.messenger_state) for path in carried)
    assert config.socket.is_relative_to(config.run)
    halves = {config.worker_state, config.messenger_state, config.run}
    assert len(halves) == 3
    assert all(half.parent == config.state for half in halves)


def test_the_configuration_is_found_where_it_is_named_first(
    tmp_path: Path, nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / name for name in ("option", "environment", "here", "etc")]
    for place in places:
        a_clinic(place)
    option, environment, here, etc = (place / "clinic.yaml" for place in places)
    assert find_clinic() == Path("clinic.yaml")
    here.unlink()
    assert find_clinic() == etc
    monkeypatch.setenv("MELFED_CLINIC", str(environment))
    assert find_clinic() == environment
    assert find_clinic(option) == option
    assert find_clinic(option.parent) == option


def test_where_there_is_none_the_places_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyError) as caught:
        find_clinic()
    assert f"looked for clinic.yaml, {tmp_path / 'etc' / 'clinic.yaml'}; name it with --config" in str(caught.value)
    monkeypatch.setenv("MELFED_CLINIC", "/nowhere/clinic.yaml")
    with pytest.raises(PolicyError, match=r"^/nowhere/clinic.yaml \(MELFED_CLINIC\): no such file"):
        find_clinic()
    a_clinic(tmp_path / "etc")
    # What was named is never passed over for another.
    with pytest.raises(PolicyError, match="no such file"):
        find_clinic(tmp_path / "none.yaml")


def test_reading_writes_nothing(tmp_path: Path) -> None:
    a_clinic(tmp_path)
    before = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    read_clinic(tmp_path / "clinic.yaml")
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == before


def test_words_are_mapped_to_codes_that_there_are(tmp_path: Path) -> None:
    config = a_clinic(tmp_path, data={"folder": "x", "diagnoses": {"Klasse A": "MEL"}, "ids": "shared"})
    options = config.data.read_options()
    assert (options.diagnoses, options.shared_ids) == ({"klasse a": "mel"}, True)
    with pytest.raises(PolicyError, match="'Klasse A' is mapped to 'melanom', which is no code"):
        a_clinic(tmp_path, data={"folder": "x", "diagnoses": {"Klasse A": "melanom"}})
    with pytest.raises(PolicyError, match="ids"):
        a_clinic(tmp_path, data={"folder": "x", "ids": "mixed"})
