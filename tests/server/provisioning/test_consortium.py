"""The consortium file: what it may hold, and that what is wrong is told in one line with the place."""

from pathlib import Path

import pytest
import yaml

from melfed.client.config.clinic import NAME
from melfed.common.errors import ServerConfigError
from melfed.common.yaml_file import REQUIRED, model_keys
from melfed.server.clinics.registry import CLINIC_NAME
from melfed.server.provisioning.consortium import ClinicEntry, ConsortiumFile, read_consortium
from tests.server.kits import consortium_file

EXAMPLE = Path(__file__).resolve().parents[3] / "server" / "consortium.example.yaml"


def refusal(folder: Path, **changes: object) -> str:
    path = consortium_file(folder, "amsterdam", **changes)
    with pytest.raises(ServerConfigError) as caught:
        read_consortium(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:")
    return message.removeprefix(str(path))


def test_the_example_is_three_clinics_on_one_machine_with_ports_of_their_own() -> None:
    file = read_consortium(EXAMPLE).file
    ports = [
        port for clinic in file.clinics for port in (clinic.messenger_port, clinic.health_port, clinic.metrics_port)
    ]
    server = file.server
    ports += [server.port, server.superlink_port, server.health_port, server.metrics_port]
    assert len(file.clinics) == 3
    assert len(set(ports)) == len(ports)


def test_the_example_explains_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert [key for key, _, _ in model_keys(ConsortiumFile) if f"{key.split('.')[-1]}:" not in text] == []


def test_little_is_needed_and_the_rest_fits_machines_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "consortium.yaml"
    path.write_text("name: test\nserver: {names: [example.org]}\nclinics: [{name: a}, {name: b}]\n")
    consortium = read_consortium(path)
    assert [clinic.name for clinic in consortium.clinics] == ["a", "b"]
    assert (consortium.file.server.port, consortium.file.server.address) == (443, "0.0.0.0")
    assert consortium.clinics[0].entry.messenger_port == consortium.clinics[1].entry.messenger_port == 9094
    assert [key for key, default, _ in model_keys(ConsortiumFile) if default == REQUIRED] == [
        "name",
        "server.names",
        "clinics.data.folder",
    ]


def test_paths_start_at_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"x")
    data = [{"name": "a", "data": {"folder": "images"}}, {"name": "b", "data": {"folder": "/srv/b"}}]
    consortium = read_consortium(consortium_file(tmp_path, clinics=data, weights=["w.bin"]))
    assert [clinic.data_folder for clinic in consortium.clinics] == [tmp_path / "images", Path("/srv/b")]
    assert consortium.weights == (tmp_path / "w.bin",)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clinics": [{"name": "a"}, {"data": None}]}, "entry 2 of clinics has no name"),
        ({"clinics": [{"name": "a"}, {"name": "A"}]}, "two clinics are called a"),
        ({"clinics": [{"name": "Server"}]}, "no clinic can be called Server, since the server is"),
        ({"clinics": [{"name": "a/../b"}]}, "clinics: string should match pattern"),
        ({"clinics": [{"name": "a", "prot": 1}]}, "unknown key clinics.0.prot"),
        ({"clinics": [{"name": "a", "health_port": 0}]}, "clinics: input should be greater than or equal to 1, not 0"),
        ({"server": {"names": []}}, "server.names: name at least one host name or address"),
        ({"server": {"names": ["exa mple.org"]}}, "'exa mple.org' is neither a host name nor an address"),
        ({"server": {"names": ["*.example.org"]}}, "'*.example.org' is neither a host name nor an address"),
        ({"server": {"names": ["a.org"], "address": "all"}}, "'all' is not an address"),
        ({"server": {"names": ["a.org"], "port": 70_000}}, "server.port"),
        ({"weights": ["missing.pt"]}, "weights: no such file"),
        ({"validity_days": 0}, "validity_days"),
        ({"name": ""}, "name"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    assert told in refusal(tmp_path, **changes)


def test_two_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.bin").write_bytes(b"x")
    assert "two files of weights are called w.bin" in refusal(tmp_path, weights=["a/w.bin", "b/w.bin"])


@pytest.mark.parametrize("names", [["192.0.2.1"], ["2001:db8::1"], ["localhost"], ["a-b.example.org", "10.0.0.1"]])
def test_names_and_addresses_of_all_kinds_are_taken(tmp_path: Path, names: list[str]) -> None:
    path = consortium_file(tmp_path, "a", server={"names": names})
    assert read_consortium(path).file.server.names == tuple(names)


def test_both_sides_have_the_same_idea_of_a_clinics_name() -> None:
    assert CLINIC_NAME == NAME


def test_a_clinics_defaults_are_those_of_clinic_yaml() -> None:
    from melfed.client.config.clinic import ClinicFile, MessengerSection

    assert ClinicEntry().messenger_port == MessengerSection().port
    for key in ("health_port", "metrics_port"):
        assert getattr(ClinicEntry(), key) == ClinicFile.model_fields[key].default


def test_a_file_that_is_no_consortium_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(["a"]))
    with pytest.raises(ServerConfigError, match="a consortium is a mapping of keys"):
        read_consortium(path)
