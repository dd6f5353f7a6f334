"""The consortium's private CA, the certificates that it signs, and the keys that Flower knows clinics by.

All keys are on the curve P-384. Serial numbers are random (159 bits), so that a serial number names one certificate
among all that this CA ever signs: nginx 1.22 offers no fingerprint of a client's certificate but SHA-1's, and the
serial number together with the only CA that it trusts is the stronger name.
"""

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from melfed.common.errors import ServerConfigError

AUTHORITY_DAYS = 3650
WARN_DAYS = 30
"""How long before its end a certificate is warned about."""

_SKEW = datetime.timedelta(hours=1)
"""Certificates hold from an hour before they are made, since clinics' clocks differ."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key (PKCS 8, without a passphrase), both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Certificate:
    """What is read from a certificate.

    `serial` is written as nginx writes it (`$ssl_client_serial`): hexadecimal, upper case, an even number of digits.
    `fingerprint` is the SHA-256 of the DER form, 64 hexadecimal digits. `names` are a server's names and addresses.
    """

    subject: str
    serial: str
    fingerprint: str
    not_after: datetime.datetime
    names: tuple[str, ...]


def now() -> datetime.datetime:
    """Return the time in UTC, without fractions of a second."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def make_authority(consortium: str) -> Pair:
    """Return a new CA, good for ten years. It can sign certificates, but no further CA."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"{consortium} CA", consortium)
    builder = _builder(name, name, key.public_key(), now() + datetime.timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _pair(builder.sign(key, hashes.SHA384()), key)


def make_server_certificate(authority: Pair, consortium: str, names: Sequence[str], days: int) -> Pair:
    """Return the server's certificate: good for servers only, for these names and addresses, localhost and 127.0.0.1.

    Raises:
        ServerConfigError: the authority's key is not its certificate's, or cannot be read.
    """
    everything = list(dict.fromkeys([*names, "localhost", "127.0.0.1"]))
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in everything])
    return _issue(authority, _name(names[0], consortium), days, ExtendedKeyUsageOID.SERVER_AUTH, alternatives)


def make_clinic_certificate(authority: Pair, consortium: str, clinic: str, days: int) -> Pair:
    """Return a clinic's certificate: good for clients only; its common name is the clinic's.

    Raises:
        ServerConfigError: the authority's key is not its certificate's, or cannot be read.
    """
    return _issue(authority, _name(clinic, consortium), days, ExtendedKeyUsageOID.CLIENT_AUTH, None)


def make_node_key() -> bytes:
    """Return a new private key for Flower's SuperNode: ECDSA P-384 in OpenSSH's format."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def public_line(node_key: bytes) -> str:
    """Return the public half of a node's private key, as one line in OpenSSH's format, without a comment.

    Raises:
        ServerConfigError: not such a key.
    """
    try:
        key = serialization.load_ssh_private_key(node_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ServerConfigError(f"a node key cannot be read ({error}); it is an OpenSSH key on P-384") from None
    line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return line.decode("ascii")


def key_header(line: str) -> str:
    """Return what a SuperNode with this public key (a line in OpenSSH's format) sends in Flower's public key header.

    That is the base64 form of the key in PEM (`flwr.supernode.node_auth_http_interceptor`, Flower 1.41).

    Raises:
        ServerConfigError: not a public key on P-384 in OpenSSH's format.
    """
    try:
        key = serialization.load_ssh_public_key(line.encode("utf-8"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ServerConfigError("not the public key of a clinic: a line 'ecdsa-sha2-nistp384 …' is needed")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(pem).decode("ascii")


def describe(certificate: bytes) -> Certificate:
    """Return what is in a certificate (PEM). Raises ValueError where it is none."""
    return _describe(x509.load_pem_x509_certificate(certificate))


def read_certificate(path: Path) -> Certificate:
    """Read a certificate file (PEM).

    Raises:
        ServerConfigError: no such file, or no certificate in it.
    """
    try:
        return describe(path.read_bytes())
    except OSError as error:
        raise ServerConfigError(f"{path}: cannot be read: {error.strerror}; put the kit's own file back") from None
    except ValueError:
        raise ServerConfigError(f"{path}: not a certificate (PEM); put the kit's own file back") from None


def belongs(key: bytes, certificate: bytes) -> bool:
    """Tell whether a private key is that of a certificate (both PEM)."""
    try:
        _load(Pair(certificate, key))
    except ServerConfigError:
        return False
    return True


def _issue(
    authority: Pair, subject: x509.Name, days: int, purpose: x509.ObjectIdentifier, names: x509.ExtensionType | None
) -> Pair:
    issuer, issuer_key = _load(authority)
    key = ec.generate_private_key(ec.SECP384R1())
    # A certificate that outlives its CA would be refused while it still looks good.
    end = min(now() + datetime.timedelta(days=days), issuer.not_valid_after_utc)
    builder = _builder(subject, issuer.subject, key.public_key(), end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return _pair(builder.sign(issuer_key, hashes.SHA384()), key)


def _load(authority: Pair) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate(authority.certificate)
        key = serialization.load_pem_private_key(authority.key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ServerConfigError("the authority's ca.key or ca.crt cannot be read; put its own files back") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ServerConfigError("the authority's ca.key is not the key of its ca.crt; put its own files back")
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime.datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    # min: an end in the past (a validity of days below zero) must not come before the beginning.
    builder = builder.not_valid_before(min(now(), end) - _SKEW).not_valid_after(end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str, organization: str) -> x509.Name:
    # A common name holds 64 characters at most; a server's names are in its subjectAltName anyway.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def _describe(certificate: x509.Certificate) -> Certificate:
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    digits = f"{certificate.serial_number:X}"
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            str(name) for kind in (x509.DNSName, x509.IPAddress) for name in alternatives.get_values_for_type(kind)
        ]
    except x509.ExtensionNotFound:
        names = []
    return Certificate(
        str(common[0].value) if common else "",
        digits.zfill(len(digits) + len(digits) % 2),
        certificate.fingerprint(hashes.SHA256()).hex(),
        certificate.not_valid_after_utc,
        tuple(names),
    )
