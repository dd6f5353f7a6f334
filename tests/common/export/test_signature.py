"""A model counts as the coordinator's only where its signature is, by a certificate that this consortium's CA made."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.errors import ServerConfigError, StudyError
from melfed.common.export.signature import Signed, check_signature, sign
from melfed.server.clinics.certificates import describe, make_server_certificate
from tests.common.signing import ANOTHER, AUTHORITY, CLINIC, COORDINATOR, HOST

CONTENT, FACTS = b"tensors", '{"name": "small"}'
SIGNED = sign(CONTENT, FACTS, COORDINATOR.key, COORDINATOR.certificate)


def checked(content: bytes = CONTENT, facts: str = FACTS, signed: Signed = SIGNED, **more) -> str:
    return check_signature(content, facts, signed, more.pop("authority", AUTHORITY.certificate), HOST, **more)


def test_what_the_coordinator_signed_is_told_by_its_certificate() -> None:
    assert checked() == describe(COORDINATOR.certificate).fingerprint


@settings(max_examples=30)
@given(st.binary(max_size=12), st.text(max_size=12))
def test_nothing_else_passes(content: bytes, facts: str) -> None:
    if (content, facts) != (CONTENT, FACTS):
        with pytest.raises(StudyError, match="not what the coordinator signed"):
            checked(content, facts)


def test_contents_cannot_be_exchanged_with_facts() -> None:
    swapped = sign(FACTS.encode(), CONTENT.decode(), COORDINATOR.key, COORDINATOR.certificate)
    with pytest.raises(StudyError, match="not what the coordinator signed"):
        checked(signed=swapped)


def test_an_altered_signature_is_refused() -> None:
    altered = bytes([*SIGNED.signature[:-1], SIGNED.signature[-1] ^ 1])
    for signature in (altered, b"", b"\x30"):
        with pytest.raises(StudyError, match="not what the coordinator signed"):
            checked(signed=replace(SIGNED, signature=signature))


def test_a_clinic_cannot_sign_in_the_coordinators_place() -> None:
    with pytest.raises(StudyError, match="not the coordinator's"):
        checked(signed=sign(CONTENT, FACTS, CLINIC.key, CLINIC.certificate))


def test_another_server_of_the_consortium_is_not_the_coordinator() -> None:
    other = make_server_certificate(AUTHORITY, "testing", ["elsewhere.example.org"], 30)
    with pytest.raises(StudyError, match="not the coordinator's"):
        checked(signed=sign(CONTENT, FACTS, other.key, other.certificate))


@pytest.mark.parametrize("certificate", ["", "-----BEGIN CERTIFICATE-----", COORDINATOR.certificate.decode()[:200]])
def test_what_is_no_certificate_is_refused(certificate: str) -> None:
    with pytest.raises(StudyError, match="not of this consortium"):
        checked(signed=replace(SIGNED, certificate=certificate))


def test_another_consortiums_certificate_is_refused() -> None:
    foreign = make_server_certificate(ANOTHER, "another", [HOST], 30)
    with pytest.raises(StudyError, match="not of this consortium"):
        checked(signed=sign(CONTENT, FACTS, foreign.key, foreign.certificate))


def test_a_certificate_that_has_expired_is_refused() -> None:
    with pytest.raises(StudyError, match="not valid now"):
        checked(now=datetime.now(UTC) + timedelta(days=31))


def test_addresses_are_compared_as_addresses() -> None:
    here = make_server_certificate(AUTHORITY, "testing", ["::1"], 30)
    signed = sign(CONTENT, FACTS, here.key, here.certificate)
    for host in ("::1", "0:0:0:0:0:0:0:1", "127.0.0.1", "LOCALHOST"):
        assert check_signature(CONTENT, FACTS, signed, AUTHORITY.certificate, host)


def test_a_key_that_is_none_is_told_of() -> None:
    with pytest.raises(ServerConfigError, match=r"server\.key cannot be read"):
        sign(CONTENT, FACTS, b"nothing", COORDINATOR.certificate)
