"""The app bundle: the same everywhere, taken by Flower, and without code."""

import hashlib
import io
import zipfile

import pytest
from flwr.cli.config_utils import get_fab_config, get_fab_metadata
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fused_config_from_dir
from flwr.supercore.object_ref import load_app

from melfed.common.errors import ServerConfigError
from melfed.common.messages import MESSAGE_VERSION
from melfed.server.flower.app_bundle import CLIENT_APP, SERVER_APP, build_bundle, bundle_digest, check_bundle


def test_it_is_the_same_each_time_and_on_every_machine():
    assert build_bundle() == build_bundle()
    # Clinics have approved this digest: whoever changes it asks all of them to approve anew.
    assert bundle_digest(build_bundle()) == "bb036dbad3bfaa55ee305e074de7b00fff127d40c31ae236d2dfa2203419dbfc"
    assert bundle_digest(b"x") == hashlib.sha256(b"x").hexdigest()


def test_its_version_is_that_of_the_messages():
    assert get_fab_metadata(build_bundle()) == ("melfed/melfed", f"{MESSAGE_VERSION}.0.0")


def test_flower_installs_it_and_finds_the_apps_that_are_installed(tmp_path):
    path = install_from_fab(build_bundle(), tmp_path, skip_prompt=True)
    assert [item.name for item in path.rglob("*") if item.is_file()] == ["pyproject.toml"]
    components = get_fab_config(build_bundle())["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": SERVER_APP, "clientapp": CLIENT_APP}
    assert get_fused_config_from_dir(path, {"run": "r"}) == {"run": "r"}
    import melfed.server.flower.deployed

    assert load_app(SERVER_APP, ValueError, path) is melfed.server.flower.deployed.app


def test_it_holds_no_code():
    with zipfile.ZipFile(io.BytesIO(build_bundle())) as archive:
        assert archive.namelist() == ["pyproject.toml", ".info/CONTENT"]


def test_another_bundle_is_not_served():
    check_bundle(build_bundle(), "melfed.fab")
    with pytest.raises(ServerConfigError, match=r"melfed\.fab: not the app bundle of this version"):
        check_bundle(build_bundle() + b"\0", "melfed.fab")
