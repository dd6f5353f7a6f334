"""Certificates and keys: what they are good for, as OpenSSL and Flower see it."""

import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from melfed.common.errors import ServerConfigError
from melfed.server.clinics.certificates import (
    Pair,
    describe,
    key_header,
    make_authority,
    make_clinic_certificate,
    make_node_key,
    make_server_certificate,
    public_line,
    read_certificate,
)


@pytest.fixture(scope="module")
def authority() -> Pair:
    return make_authority("test")


def openssl_accepts(folder: Path, authority: Pair, pair: Pair, purpose: str) -> bool:
    (folder / "ca.crt").write_bytes(authority.certificate)
    (folder / "own.crt").write_bytes(pair.certificate)
    command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "own.crt"]
    return subprocess.run(command, cwd=folder, capture_output=True, timeout=30, check=False).returncode == 0


def test_each_certificate_is_good_for_its_own_side_alone(tmp_path: Path, authority: Pair) -> None:
    server = make_server_certificate(authority, "test", ["example.org"], 9)
    clinic = make_clinic_certificate(authority, "test", "amsterdam", 9)
    assert openssl_accepts(tmp_path, authority, server, "sslserver")
    assert not openssl_accepts(tmp_path, authority, server, "sslclient")
    assert openssl_accepts(tmp_path, authority, clinic, "sslclient")
    assert not openssl_accepts(tmp_path, authority, clinic, "sslserver")
    assert not openssl_accepts(tmp_path, make_authority("test"), clinic, "sslclient")
    # A clinic's certificate signs no other.
    below = make_clinic_certificate(Pair(clinic.certificate, clinic.key), "test", "berlin", 9)
    assert not openssl_accepts(tmp_path, Pair(clinic.certificate, clinic.key), below, "sslclient")


def test_the_authority_is_a_ca_and_its_certificates_are_not(authority: Pair) -> None:
    ca = x509.load_pem_x509_certificate(authority.certificate)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert ca.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    leaf = x509.load_pem_x509_certificate(make_clinic_certificate(authority, "test", "amsterdam", 9).certificate)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_server_has_its_names_and_loopback(authority: Pair) -> None:
    pair = make_server_certificate(authority, "test", ["example.org", "192.0.2.1", "2001:db8::1"], 9)
    assert set(describe(pair.certificate).names) == {
        "example.org",
        "192.0.2.1",
        "2001:db8::1",
        "localhost",
        "127.0.0.1",
    }


def test_a_long_name_of_the_server_fits(authority: Pair) -> None:
    name = ".".join(["a" * 60] * 4)
    assert name in describe(make_server_certificate(authority, "test", [name], 9).certificate).names


def test_a_certificate_does_not_outlive_its_authority(authority: Pair) -> None:
    certificate = describe(make_clinic_certificate(authority, "test", "amsterdam", 3650 + 99).certificate)
    assert certificate.not_after == describe(authority.certificate).not_after


def test_a_key_of_another_authority_is_refused(authority: Pair) -> None:
    for key in (make_authority("test").key, b"", b"no key"):
        with pytest.raises(ServerConfigError, match=r"ca\.key"):
            make_clinic_certificate(Pair(authority.certificate, key), "test", "amsterdam", 9)


def test_the_node_key_is_what_flower_reads_and_sends(tmp_path: Path) -> None:
    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve

    key = make_node_key()
    assert key.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    # As flower-supernode reads --auth-supernode-private-key, and as its header is made.
    loaded = serialization.load_ssh_private_key(key, None).public_key()
    assert uses_nist_ec_curve(loaded)
    assert key_header(public_line(key)) == b64encode(public_key_to_bytes(loaded)).decode()
    file = tmp_path / "node.pub"
    file.write_text(f"{public_line(key)} amsterdam\n")
    assert try_load_public_key(file) == public_key_to_bytes(loaded)
    assert key_header(file.read_text()) == key_header(public_line(key))


@pytest.mark.parametrize("line", ["", "ecdsa-sha2-nistp384 AAAA", "ssh-ed25519 " + "A" * 68, "\0"])
def test_what_is_no_node_key_is_refused(line: str) -> None:
    with pytest.raises(ServerConfigError):
        key_header(line)
    with pytest.raises(ServerConfigError):
        public_line(line.encode())


def test_a_file_that_is_no_certificate_is_told(tmp_path: Path, authority: Pair) -> None:
    with pytest.raises(ServerConfigError, match="cannot be read"):
        read_certificate(tmp_path / "missing.crt")
    path = tmp_path / "ca.key"
    path.write_bytes(authority.key)
    with pytest.raises(ServerConfigError, match="not a certificate"):
        read_certificate(path)


def test_the_serial_is_written_as_openssl_does(tmp_path: Path, authority: Pair) -> None:
    for _ in range(5):
        pair = make_clinic_certificate(authority, "test", "amsterdam", 9)
        (tmp_path / "own.crt").write_bytes(pair.certificate)
        command = ["openssl", "x509", "-in", "own.crt", "-noout", "-serial"]
        told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True).stdout
        assert told.strip() == f"serial={describe(pair.certificate).serial}"
