"""The text of nginx's configuration."""

import base64
from pathlib import Path

import pytest
import yaml

from melfed.common.errors import ServerConfigError
from melfed.server.clinics.certificates import key_header
from melfed.server.clinics.registry import read_clinics, revoke
from melfed.server.config import ServerConfig, read_server
from melfed.server.edge.nginx import nginx_configuration
from melfed.server.edge.nginx_conf import FLEET
from melfed.server.flower.key_holders import KEY_HEADER
from melfed.server.provisioning.provision import provision
from tests.server.kits import consortium_file


def test_what_goes_through_is_what_flowers_client_asks_for() -> None:
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
    from flwr.superlink.routers.fleet.router import router

    assert {f"/v1/fleet/{name}" for name in FLEET} == {route.path for route in router.routes}
    assert KEY_HEADER == FLEET_HTTP_PUBLIC_KEY_HEADER


def tmp_path_below(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def kit(folder: Path, **edge: object) -> ServerConfig:
    provision(consortium_file(folder, "amsterdam"), folder / "kits")
    path = folder / "kits" / "server" / "server.yaml"
    content = yaml.safe_load(path.read_text())
    content["edge"] |= edge
    path.write_text(yaml.safe_dump(content))
    return read_server(path)


def test_the_configuration_names_the_clinics_that_are_let_in_and_no_secret(tmp_path: Path) -> None:
    config = kit(tmp_path)
    records = read_clinics(config.clinics)
    text = nginx_configuration(config, records)
    assert f'"{records[0].serial}" "amsterdam";' in text
    assert base64.b64decode(key_header(records[0].node_key)).startswith(b"-----BEGIN PUBLIC KEY-----")
    assert records[0].serial not in nginx_configuration(config, [revoke(config.clinics, "amsterdam")])
    for secret in (config.certificate_key, config.superexec_secret):
        assert secret.read_text().splitlines()[0] not in text.replace(str(secret), "")
    assert "listen [::1]:" in nginx_configuration(kit(tmp_path_below(tmp_path, "v6"), address="::1"), ())


def test_a_new_certificate_changes_the_configuration(tmp_path: Path) -> None:
    config = kit(tmp_path)
    before = nginx_configuration(config, ())
    provision(tmp_path / "consortium.yaml", tmp_path / "kits", renew="server")
    assert nginx_configuration(config, ()) != before


def test_a_path_that_nginx_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    config = kit(tmp_path_below(tmp_path, "a $folder"))
    with pytest.raises(ServerConfigError, match="nginx cannot use this path"):
        nginx_configuration(config, ())
