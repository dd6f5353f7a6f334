"""Commands about the server and its clinics."""

import json

import pytest

from melfed.common.errors import (
    ServerConfigError,
)
from melfed.server.clinics.certificates import read_certificate
from tests.server.cli.commands import call


def test_a_study_file_is_no_clinics_record(config):
    with pytest.raises(
        ServerConfigError, match=r"s\.yaml: not a clinic's record; they are kits/server/clinics/NAME\.json"
    ):
        call("approve", "s.yaml")


def test_provision_says_what_it_did_and_the_fingerprint_as_it_is_read_aloud(config):
    told = call("provision", "kits/consortium.yaml", "--out", "kits")
    assert "nothing to make: all kits exist" in told
    ca = read_certificate(config.ca_certificate).fingerprint
    (line,) = [line for line in told.splitlines() if line.startswith("CA certificate, SHA-256: ")]
    digits = line.removeprefix("CA certificate, SHA-256: ").split(":")
    assert (len(digits), "".join(digits).lower(), line.upper().endswith(digits[-1])) == (32, ca, True)
    assert "nothing to make" not in call("provision", "kits/consortium.yaml", "--out", "kits", "--renew", "a")


def test_clinics_are_listed_kept_out_and_let_in(config):
    call("revoke", "a")
    rows = {row["name"]: row["revoked"] for row in json.loads(call("clinics", "--json"))}
    assert rows == {"a": True, "b": False}
    call("approve", str(config.clinics / "a.json"))
    assert "no, revoked" not in call("clinics")
