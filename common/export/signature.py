"""The coordinator's signature on what clinics keep: by the key of its server's certificate, which the consortium's CA
has signed and every clinic's kit can check.

ECDSA on P-384 with SHA-384, as all keys of a kit. A clinic's own certificate is of the same CA; it is good for clients
alone, so that no clinic can sign in the coordinator's place.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from melfed.common.errors import ServerConfigError, StudyError

_BEGINNING: Final = b"melfed model 1\n"
"""So that no signature of anything else, such as TLS's with the same key, can stand for one of a model."""
ALTERED: Final = "the model is not what the coordinator signed; ask the coordinator to deliver it again"


@dataclass(frozen=True)
class Signed:
    """A signature (DER), and the certificate (PEM) of the key that made it."""

    signature: bytes
    certificate: str


def sign(content: bytes, facts: str, key: bytes, certificate: bytes) -> Signed:
    """Sign a model.

    Args:
        content: its tensors, one safetensors file.
        facts: what is told of it, as it travels.
        key: private, PEM.
        certificate: of the key, PEM.

    Raises:
        ServerConfigError: the key cannot be read, or is no key on an elliptic curve.
    """
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ServerConfigError("server.key cannot be read as a key on P-384; put the kit's own file back")
    return Signed(private.sign(_message(content, facts), ec.ECDSA(hashes.SHA384())), certificate.decode("ascii"))


def check_signature(
    content: bytes, facts: str, signed: Signed, authority: bytes, host: str, now: datetime | None = None
) -> str:
    """Check that the consortium's coordinator signed a model; return the SHA-256 of its certificate.

    Args:
        content: as for `sign`.
        facts: as for `sign`.
        signed: what came with them.
        authority: the consortium's CA certificate, PEM.
        host: the coordinator's name or address, which its certificate must bear.
        now: the time, UTC.

    Raises:
        StudyError: the certificate is not the coordinator's, or the signature is of something else.
    """
    try:
        certificate = x509.load_pem_x509_certificate(signed.certificate.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        raise StudyError("the model is signed with a certificate that is not of this consortium") from None
    if not _is_servers(certificate, host):
        raise StudyError(f"the model is signed with a certificate that is not the coordinator's ({host[:100]})")
    now = now or datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise StudyError("the model is signed with a certificate that is not valid now; the coordinator renews it")
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise StudyError(ALTERED)
    try:
        public.verify(signed.signature, _message(content, facts), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise StudyError(ALTERED) from None
    return certificate.fingerprint(hashes.SHA256()).hex()


def _message(content: bytes, facts: str) -> bytes:
    parts = (hashlib.sha256(content).hexdigest(), hashlib.sha256(facts.encode("utf-8")).hexdigest())
    return _BEGINNING + "\n".join(parts).encode("ascii")


def _is_servers(certificate: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate is one for servers, and bears this name or address."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        borne = ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        borne = host.lower() in {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return borne and ExtendedKeyUsageOID.SERVER_AUTH in usage
