"""Provisioning: whole kits, nothing written twice, no key where it does not belong, units that systemd takes."""

import configparser
import hashlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from melfed.client.config.clinic import ClinicFile, read_clinic
from melfed.common.errors import PolicyError, ServerConfigError, StorageError
from melfed.common.yaml_file import model_keys
from melfed.server.clinics.certificates import make_authority, public_line, read_certificate
from melfed.server.clinics.registry import read_clinics, revoke
from melfed.server.config import ServerFile, read_server
from melfed.server.flower.app_bundle import build_bundle
from melfed.server.provisioning.provision import provision
from tests.server.kits import consortium_file, content

EXAMPLE = Path(__file__).resolve().parents[3] / "client" / "clinic.example.yaml"
UNITS = {
    "clinics/amsterdam/systemd/melfed-worker.service": "melfed-client worker --config /var/lib/melfed/clinic.yaml",
    "clinics/amsterdam/systemd/melfed-messenger.service": "melfed-client carry --config /var/lib/melfed/clinic.yaml",
    "server/systemd/melfed-server.service": "melfed-server start --config /var/lib/melfed-server/server.yaml",
}


def test_a_kit_has_what_a_clinic_needs(kits: Path) -> None:
    kit = kits / "clinics" / "amsterdam"
    config = read_clinic(kit / "clinic.yaml")
    assert (config.name, config.file.coordinator.host, config.file.coordinator.port) == (
        "amsterdam",
        "edge.example.org",
        443,
    )
    assert config.file.data.folder == str(kits.parent / "images")
    assert config.file.data.sources == ("a*", "b")
    assert config.file.apps == (hashlib.sha256(build_bundle()).hexdigest(),)
    assert config.file.messenger.user == "carrier"
    assert (config.weights / "weights.pt").read_bytes() == b"weights"
    for path in (config.ca_certificate, config.certificate, config.certificate_key, config.node_key):
        assert path.is_file()


def test_a_clinic_whose_data_nobody_named_is_asked_for_them(kits: Path, tmp_path: Path) -> None:
    path = tmp_path / "clinic.yaml"
    text = (kits / "clinics" / "berlin" / "clinic.yaml").read_text()
    path.write_text(text)
    with pytest.raises(PolicyError, match=r"clinic\.yaml:\d+: data\.folder: input should be a valid string"):
        read_clinic(path)
    path.write_text(text.replace("folder: null", "folder: images"))
    file = read_clinic(path).file
    assert (file.health_port, file.messenger.user, file.policy.studies, file.data.sources) == (None, None, (), "all")


def test_the_servers_kit_has_what_the_server_needs(kits: Path) -> None:
    config = read_server(kits / "server" / "server.yaml")
    assert (config.file.name, config.file.edge.address, config.file.edge.port) == ("test", "127.0.0.1", 443)
    assert config.bundle.read_bytes() == build_bundle()
    assert {"edge.example.org", "192.0.2.7", "localhost", "127.0.0.1"} == set(
        read_certificate(config.certificate).names
    )
    assert (config.weights / "weights.pt").is_file()
    for clinic in read_clinics(config.clinics):
        kit = kits / "clinics" / clinic.name
        assert clinic.node_key == public_line((kit / "node.key").read_bytes())
        assert clinic.serial == read_certificate(kit / "clinic.crt").serial
        assert read_certificate(kit / "clinic.crt").subject == clinic.name
    assert len(config.superexec_secret.read_bytes()) >= 32


def test_what_is_secret_is_for_its_owner_alone_and_in_no_other_kit(kits: Path) -> None:
    secrets = {path for path in kits.rglob("*") if path.suffix in (".key", ".secret", ".zip")}
    assert len(secrets) == 1 + 2 + 3 * 2
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in (kits / "authority", kits / "server", kits / "clinics" / "amsterdam"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = {path: path.read_bytes() for path in kits.rglob("*") if path.is_file() and path.suffix != ".zip"}
    for path in secrets:
        holders = [each for each, text in files.items() if path.suffix != ".zip" and path.read_bytes() in text]
        assert path.suffix == ".zip" or holders == [path]
    assert len({path.read_bytes() for path in secrets}) == len(secrets)


def test_a_second_run_adds_who_is_new_and_touches_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    first = provision(consortium_file(tmp_path, "amsterdam"), out)
    assert first.added == ("authority", "server", "clinics/amsterdam")
    before = content(out)
    again = provision(tmp_path / "consortium.yaml", out)
    assert (again.added, again.notes) == ((), ())
    assert (again.fingerprint, again.app) == (first.fingerprint, first.app)
    assert content(out) == before
    later = provision(consortium_file(tmp_path, "amsterdam", "berlin"), out)
    assert later.added == ("clinics/berlin",)
    after = content(out)
    assert {name: after[name] for name in before} == before
    new = set(after) - set(before)
    assert {"clinics/berlin.zip", "server/clinics/berlin.json", "clinics/berlin/clinic.key"} < new
    assert read_certificate(out / "clinics/berlin/ca.crt").fingerprint == first.fingerprint


def test_a_renewal_makes_one_certificate_anew(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam", "berlin"), out)
    before, record = content(out), read_clinics(out / "server" / "clinics")[1]
    done = provision(tmp_path / "consortium.yaml", out, renew="berlin")
    assert (done.added, done.renewed) == ((), ("clinics/berlin",))
    changed = {name for name, each in content(out).items() if each[0] != before[name][0]}
    kit = "clinics/berlin"
    files = ("clinic.crt", "clinic.key", "SHA256SUMS")
    assert changed == {*(f"{kit}/{name}" for name in files), f"{kit}.zip", "server/clinics/berlin.json"}
    new = read_clinics(out / "server" / "clinics")[1]
    assert new.serial == read_certificate(out / kit / "clinic.crt").serial != record.serial
    assert (new.node_key, new.earlier) == (record.node_key, (record.serial,))
    done = provision(tmp_path / "consortium.yaml", out, renew="server")
    assert done.renewed == ("server",)
    for folder in (out / "server", out / kit):
        subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=folder, timeout=30, check=True)


def test_a_renewal_does_not_let_in_who_is_revoked(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam"), out)
    revoke(out / "server" / "clinics", "amsterdam")
    provision(tmp_path / "consortium.yaml", out, renew="amsterdam")
    assert read_clinics(out / "server" / "clinics")[0].revoked


@pytest.mark.parametrize("name", ["coimbra", "../server", ""])
def test_only_what_exists_is_renewed(tmp_path: Path, name: str) -> None:
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam"), out)
    before = content(out)
    with pytest.raises(ServerConfigError, match="to renew; known: amsterdam, and server"):
        provision(tmp_path / "consortium.yaml", out, renew=name)
    assert content(out) == before
    with pytest.raises(ServerConfigError, match="nothing to renew yet"):
        provision(tmp_path / "consortium.yaml", tmp_path / "new", renew="server")
    assert not (tmp_path / "new").exists()


def test_a_run_that_was_killed_is_made_whole(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam"), out)
    key = (out / "clinics" / "amsterdam" / "node.key").read_bytes()
    (out / "clinics" / "amsterdam.zip").unlink()
    (out / "server" / "clinics" / "amsterdam.json").unlink()
    half = out / "clinics" / ".berlin.new"
    half.mkdir()
    (half / "node.key").write_text("half")
    nobody = out / "clinics" / ".zagreb.new"  # taken off the list since
    nobody.mkdir()
    (nobody / "node.key").write_text("half")
    keys = [out / folder / f".{name}.0123abcd" for folder, name in (("server", "server.key"), ("authority", "ca.key"))]
    keys += [out / "clinics" / "amsterdam" / ".clinic.key.0123abcd", out / "clinics" / ".amsterdam.zip.0123abcd"]
    for key_file in keys:
        key_file.write_text("half")
    done = provision(consortium_file(tmp_path, "amsterdam", "berlin"), out)
    assert done.added == ("clinics/amsterdam", "clinics/berlin")
    assert not any(path.exists() for path in (half, nobody, *keys))
    assert read_clinics(out / "server" / "clinics")[0].node_key == public_line(key)
    assert (out / "clinics" / "amsterdam.zip").is_file()


def delete_kit(out: Path, name: str) -> None:
    shutil.rmtree(out / "clinics" / name)
    (out / "clinics" / f"{name}.zip").unlink()


def test_a_clinic_whose_kit_was_sent_and_deleted_is_left_alone(tmp_path: Path) -> None:
    """What is at the clinic is what its record is of; a new kit beside that record could not connect."""
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam", "berlin"), out)
    delete_kit(out, "amsterdam")
    (out / "clinics" / "berlin" / "node.key").unlink()
    before = content(out / "server")
    done = provision(consortium_file(tmp_path, "amsterdam", "berlin", "coimbra"), out)
    assert done.added == ("clinics/coimbra",)
    assert [note.split(";")[0] for note in done.notes] == [
        f"the kit of {name} is not here any more" for name in ("amsterdam", "berlin")
    ]
    after = content(out / "server")
    assert set(after) - set(before) == {"clinics/coimbra.json"}
    assert {name: after[name] for name in before} == before
    with pytest.raises(ServerConfigError, match="not whole; remove it, and provision --renew berlin"):
        provision(tmp_path / "consortium.yaml", out, renew="berlin")


@pytest.mark.parametrize("revoked", [False, True])
def test_a_renewal_makes_a_new_kit_where_there_is_none(tmp_path: Path, revoked: bool) -> None:
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam"), out)
    if revoked:
        revoke(out / "server" / "clinics", "amsterdam")
    (before,) = read_clinics(out / "server" / "clinics")
    delete_kit(out, "amsterdam")
    done = provision(tmp_path / "consortium.yaml", out, renew="amsterdam")
    assert (done.renewed, done.notes) == (("clinics/amsterdam",), ())
    (record,) = read_clinics(out / "server" / "clinics")
    kit = out / "clinics" / "amsterdam"
    assert record.node_key == public_line((kit / "node.key").read_bytes()) != before.node_key
    assert record.serial == read_certificate(kit / "clinic.crt").serial != before.serial
    assert (record.earlier, record.revoked) == ((), revoked)
    assert yaml.safe_load((kit / "clinic.yaml").read_text())["name"] == "amsterdam"
    delete_kit(out, "amsterdam")
    with pytest.raises(ServerConfigError, match=r"amsterdam is not in .*; add it there for a new kit"):
        provision(consortium_file(tmp_path, "berlin"), out, renew="amsterdam")


def test_a_renewal_that_was_killed_is_told_of_and_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        """Nothing in the program may catch it."""

    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam"), out)
    replace, points = Path.replace, 0
    for number in range(1, 10):
        writes = 0

        def killed(self: Path, target: Path, last: int = number) -> Path:
            nonlocal writes
            writes += 1
            if writes > last:
                raise KilledError
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            try:
                provision(tmp_path / "consortium.yaml", out, renew="amsterdam")
            except KilledError:
                points += 1
            else:
                break
        (note,) = provision(tmp_path / "consortium.yaml", out).notes
        assert note.endswith("not the kit of amsterdam's record, as after a renewal that was killed: --renew amsterdam")
        assert provision(tmp_path / "consortium.yaml", out, renew="amsterdam").notes == ()
    assert points == 4, "after the key, the certificate, the check sums, the archive"


def test_kits_are_not_continued_with_another_ca(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam"), out)
    shutil.move(out / "authority", tmp_path / "safe")
    with pytest.raises(ServerConfigError, match=r"authority: missing; bring the CA back"):
        provision(tmp_path / "consortium.yaml", out)
    assert not (out / "authority").exists()
    shutil.move(tmp_path / "safe", out / "authority")
    (out / "authority" / "ca.key").write_bytes(make_authority("test").key)
    with pytest.raises(ServerConfigError, match=r"not the key of its ca\.crt"):
        provision(consortium_file(tmp_path, "amsterdam", "berlin"), out)
    (out / "authority" / "ca.key").unlink()
    with pytest.raises(ServerConfigError, match=r"ca\.key: cannot be read"):
        provision(tmp_path / "consortium.yaml", out)


def test_what_differs_from_the_kits_is_told(tmp_path: Path) -> None:
    out = tmp_path / "kits"
    provision(consortium_file(tmp_path, "amsterdam", "berlin"), out)
    path = consortium_file(tmp_path, "amsterdam", server={"names": ["new.example.org"]})
    notes = "\n".join(provision(path, out).notes)
    assert "server.crt does not name new.example.org" in notes
    assert "berlin is not in consortium.yaml" in notes


def test_ports_that_stand_twice_are_told_of_where_all_is_on_one_machine(tmp_path: Path) -> None:
    ports = {"messenger_port": 9101, "health_port": None, "metrics_port": 9465}
    clinics = [{"name": "a", **ports}, {"name": "b", **ports, "metrics_port": None}]
    notes = provision(
        consortium_file(tmp_path, server={"names": ["localhost"]}, clinics=clinics), tmp_path / "one"
    ).notes
    assert notes == (
        "port 9465 is that of server.metrics_port, a.metrics_port; on one machine each needs its own",
        "port 9101 is that of a.messenger_port, b.messenger_port; on one machine each needs its own",
    )
    assert provision(consortium_file(tmp_path, clinics=clinics), tmp_path / "several").notes == ()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "kits").write_text("a file")
    with pytest.raises(StorageError, match="cannot be written"):
        provision(consortium_file(tmp_path, "amsterdam"), tmp_path / "kits")


def test_names_that_yaml_reads_otherwise_stay_names(tmp_path: Path) -> None:
    names = ("1", "1e3", "null", "yes", "2020-01-01")
    data = [{"name": name, "data": {"folder": 'a: "b" # c', "sources": ["*", "1"]}} for name in names]
    provision(consortium_file(tmp_path, clinics=data, name="12"), tmp_path / "kits")
    assert [each.name for each in read_clinics(tmp_path / "kits" / "server" / "clinics")] == sorted(names)
    for name in names:
        config = read_clinic(tmp_path / "kits" / "clinics" / name / "clinic.yaml")
        assert (config.name, config.file.data.sources) == (name, ("*", "1"))
        assert config.file.data.folder == str(tmp_path / 'a: "b" # c')
    assert read_server(tmp_path / "kits" / "server" / "server.yaml").file.name == "12"


def test_clinic_yaml_is_the_example_of_the_client_filled_in(kits: Path) -> None:
    def body(path: Path) -> list[str]:
        return path.read_text(encoding="utf-8").partition("\n\n")[2].splitlines()

    ours, theirs = body(kits / "clinics" / "berlin" / "clinic.yaml"), body(EXAMPLE)
    filled = {"name", "host", "port", "folder", "apps", "health_port", "sources"}
    assert len(ours) == len(theirs)
    different = [(one, other) for one, other in zip(ours, theirs, strict=True) if one != other]
    assert {one.split(":")[0].strip() for one, _ in different} <= filled
    assert all(one.split(":")[0] == other.split(":")[0] for one, other in different)


@pytest.mark.parametrize(
    ("file", "model"), [("clinics/berlin/clinic.yaml", ClinicFile), ("server/server.yaml", ServerFile)]
)
def test_every_key_stands_in_the_kits_file_with_its_default(kits: Path, file: str, model: type) -> None:
    text = (kits / file).read_text(encoding="utf-8")
    assert [key for key, _, _ in model_keys(model) if f"{key.split('.')[-1]}:" not in text] == []
    written, defaults = yaml.safe_load(text), model.model_fields
    for key in ("state", "weights", "metrics_port"):
        assert written[key] == defaults[key].default
    for section in ("resources", "tell", "messenger") if model is ClinicFile else ():
        assert written[section] == defaults[section].default.model_dump()


@pytest.mark.parametrize("path", ["clinics/amsterdam/README.md", "server/README.md"])
def test_a_readme_has_numbered_steps_and_no_gap(kits: Path, path: str) -> None:
    text = (kits / path).read_text(encoding="utf-8")
    steps = [int(line.partition(".")[0]) for line in text.splitlines() if line[:1].isdigit()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 6
    fingerprint = read_certificate(kits / "authority" / "ca.crt").fingerprint
    assert fingerprint in text.replace(":", "").lower()
    assert "@" not in text


@pytest.mark.parametrize("path", sorted(UNITS))
def test_a_unit_is_sandboxed(kits: Path, path: str) -> None:
    unit = configparser.RawConfigParser(strict=False, allow_no_value=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((kits / path).read_text(encoding="utf-8"))
    service = unit["Service"]
    assert service["ExecStart"] == f"/opt/melfed/venv/bin/{UNITS[path]}"
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    for option in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID", "LockPersonality"):
        assert service[option] == "yes"
    assert (service["ProtectSystem"], service["SystemCallFilter"]) == ("strict", "@system-service")
    assert service["LimitCORE"] == "0"
    port = "CAP_NET_BIND_SERVICE" if "server" in path else ""
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == port
    # Those alone are watched whose process tells systemd that it is alive.
    assert service.get("WatchdogSec") == ("600" if "server" in path else None)
    if "worker" in path:
        assert (service["IPAddressDeny"], service["IPAddressAllow"]) == ("any", "127.0.0.0/8")
        assert service["RestrictAddressFamilies"] == "AF_UNIX AF_INET"
    if "messenger" in path:
        assert service["User"] == "melfed-messenger"
        assert service["MemoryDenyWriteExecute"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("path", sorted(UNITS))
def test_systemd_takes_a_unit_and_finds_it_little_exposed(kits: Path, tmp_path: Path, path: str) -> None:
    # The programs and the other unit are not installed here.
    text = (kits / path).read_text(encoding="utf-8").replace(UNITS[path].split()[0], "true")
    text = text.replace("/opt/melfed/venv/bin/", f"{Path(shutil.which('true') or '/bin/true').parent}/")
    unit = tmp_path / Path(path).name
    unit.write_text(text)
    if "messenger" in path:
        (tmp_path / "melfed-worker.service").write_text("[Service]\nExecStart=/bin/true\n")
    environment = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "melfed" in line]
    assert (done.returncode, ours) == (0, [])
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=35", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


needs_installer = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None or shutil.which("systemd-tmpfiles") is None,
    reason="needs root, and systemd's programs",
)


def install(kit: Path, root: Path) -> None:
    (root / "etc").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["sh", str(kit / "install.sh"), str(root)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def owners(root: Path) -> dict[str, str]:
    """Names of the users of another root folder, by number."""
    return {line.split(":")[2]: line.split(":")[0] for line in (root / "etc" / "passwd").read_text().splitlines()}


@needs_installer
def test_a_clinics_kit_installs_for_two_users(tmp_path: Path) -> None:
    provision(consortium_file(tmp_path, "amsterdam"), tmp_path / "kits")
    kit, root = tmp_path / "kits" / "clinics" / "amsterdam", tmp_path / "root"
    install(kit, root)
    home, users = root / "var/lib/melfed", owners(root)

    def owner(name: str) -> tuple[str, int]:
        status = (home / name).stat()
        return users.get(str(status.st_uid), "root"), stat.S_IMODE(status.st_mode)

    assert owner("clinic.key") == owner("node.key") == ("melfed-messenger", 0o600)
    assert owner("state/worker") == ("melfed-data", 0o700)
    assert owner("state/messenger") == ("melfed-messenger", 0o700)
    assert owner("state/run") == ("melfed-data", 0o2750)
    assert owner("clinic.yaml") == ("root", 0o644)
    settings = (home / "clinic.yaml").read_text().replace("folder: null", "folder: /srv/images")
    (home / "clinic.yaml").write_text(settings)
    assert read_clinic(home / "clinic.yaml").file.messenger.user == "melfed-messenger"
    assert sorted(path.name for path in (root / "etc/systemd/system").iterdir()) == [
        "melfed-messenger.service",
        "melfed-worker.service",
    ]
    # A renewed kit is installed over it: new keys, the clinic's own settings.
    (home / "clinic.yaml").write_text(settings.replace("epsilon: 3", "epsilon: 1"))
    provision(tmp_path / "consortium.yaml", tmp_path / "kits", renew="amsterdam")
    install(kit, root)
    assert (home / "clinic.key").read_bytes() == (kit / "clinic.key").read_bytes()
    assert owner("clinic.key") == ("melfed-messenger", 0o600)
    assert read_clinic(home / "clinic.yaml").policy.epsilon == 1


@needs_installer
def test_the_servers_kit_installs_and_keeps_who_is_revoked(tmp_path: Path) -> None:
    provision(consortium_file(tmp_path, "amsterdam"), tmp_path / "kits")
    kit, root = tmp_path / "kits" / "server", tmp_path / "root"
    install(kit, root)
    home = root / "var/lib/melfed-server"
    config = read_server(home / "server.yaml")
    for path in (config.certificate_key, config.superexec_secret, config.state, config.runs):
        assert owners(root)[str(path.stat().st_uid)] == "melfed-server"
    assert stat.S_IMODE(config.certificate_key.stat().st_mode) == 0o600
    assert (root / "etc/melfed/server.yaml").readlink() == Path("/var/lib/melfed-server/server.yaml")
    revoke(config.clinics, "amsterdam")
    provision(consortium_file(tmp_path, "amsterdam", "berlin"), tmp_path / "kits")
    install(kit, root)
    assert [(each.name, each.revoked) for each in read_clinics(config.clinics)] == [
        ("amsterdam", True),
        ("berlin", False),
    ]
