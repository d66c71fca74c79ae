"""X.509 by the `cryptography` library: a small private CA on ECDSA P-256, and its rotation without a break.

A new CA comes with a certificate of the same key that the old CA has signed (a cross-signed one). Servers
send it along, so that a client that still trusts only the old CA accepts the new servers, and the bundle of
both CAs lets new clients accept old servers: nodes can be changed one by one, in any order.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

BACKDATED = timedelta(minutes=5)
"""Clocks of nodes differ a little."""


def now() -> datetime:
    """The current time, UTC."""
    return datetime.now(UTC)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_text(key: ec.EllipticCurvePrivateKey) -> str:
    """PEM (PKCS #8, not encrypted: the file's mode protects it)."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def read_key(text: str) -> ec.EllipticCurvePrivateKey:
    """A private key from PEM. Raises ValueError or TypeError."""
    key = serialization.load_pem_private_key(text.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic-curve key")
    return key


def certificate_text(certificate: x509.Certificate) -> str:
    """PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def read_certificates(text: str) -> list[x509.Certificate]:
    """All certificates of a PEM bundle; [] for an empty text. Raises ValueError."""
    return x509.load_pem_x509_certificates(text.encode()) if text.strip() else []


def when(certificate: x509.Certificate) -> str:
    """The end of its validity, ISO 8601."""
    return certificate.not_valid_after_utc.isoformat()


def due(not_after: str, renew_before_days: int, at: datetime) -> bool:
    """Whether a certificate that ends at `not_after` is to be renewed at time `at`;
    unreadable dates are due.
    """
    try:
        return datetime.fromisoformat(not_after) - timedelta(days=renew_before_days) <= at
    except ValueError:
        return True


def named(common_name: str) -> x509.Name:
    """A subject with only a common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def authority_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    start: datetime,
    end: datetime,
) -> x509.Certificate:
    """A CA certificate for `key`: self-signed when issuer and subject are the same, else cross-signed."""
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )


def leaf_certificate(
    common_name: str,
    sans: Sequence[str],
    usages: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    start: datetime,
    days: int,
) -> x509.Certificate:
    """A certificate of a server or client; it never outlives the CA that signs it."""
    end = min(start + timedelta(days=days), authority.not_valid_after_utc)
    names = [name for each in sans for name in general_names(each)]
    purposes = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(common_name))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATED)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purposes[each] for each in usages]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """The key usage of a CA, or of a TLS peer."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def general_names(text: str) -> list[x509.GeneralName]:
    """A DNS name, and for an IP address an IP name beside it: some clients compare addresses with DNS names only."""
    try:
        return [x509.IPAddress(ipaddress.ip_address(text)), x509.DNSName(text)]
    except ValueError:
        return [x509.DNSName(text)]


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` issued `certificate`."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
