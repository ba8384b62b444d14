"""A certificate and its key: how the webhook's own are made, read and held to each other."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SKEW = timedelta(minutes=10)
"""Certificates are valid from a little before now: clocks of API server and webhook differ."""


@dataclass(frozen=True)
class Lifetimes:
    """How long certificates live, and how long a new authority is published before a leaf of its own is served: every
    API server has seen it by then. `skew`: how far the clock of an API server may be behind ours.
    """

    authority: timedelta = timedelta(days=3650)
    leaf: timedelta = timedelta(days=90)
    settling: timedelta = timedelta(minutes=5)
    skew: timedelta = timedelta(minutes=5)


LIFETIMES = Lifetimes()


@dataclass(frozen=True)
class Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return pem_of(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def pem_of(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def read_pair(certificate_pem: bytes, key_pem: bytes) -> Pair | None:
    """The pair of the two texts; None where they cannot be read, or do not belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    return Pair(certificate, key)


def read_bundle(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in `pem`; none where they cannot be read."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        return ()


def new_authority(now: datetime, lifetimes: Lifetimes = LIFETIMES) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # Clients look for an issuer by its name: two authorities must not share one.
    serial = x509.random_serial_number()
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"vllm-rightsizer webhook {now:%Y-%m-%d} {serial % 2**32:08x}")]
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, now, now + lifetimes.authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate, key)


def new_leaf(authority: Pair, hosts: Sequence[str], now: datetime, lifetimes: Lifetimes = LIFETIMES) -> Pair:
    """A server certificate for `hosts`; it does not outlive its authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name holds 64 characters; clients look at the alternative names alone.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(name, issuer.subject, key, now, min(now + lifetimes.leaf, issuer.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Pair(certificate, key)


def verifies(
    leaf: x509.Certificate,
    authorities: Sequence[x509.Certificate],
    now: datetime,
    between: Sequence[x509.Certificate] = (),
) -> bool:
    """Whether one of `authorities` issued `leaf`, or one of those `between` that verifies itself; all valid now."""
    if not valid(leaf, now):
        return False
    if any(valid(authority, now) and _issued(leaf, authority) for authority in authorities):
        return True
    return any(
        _issued(leaf, one) and verifies(one, authorities, now, [other for other in between if other is not one])
        for one in between
    )


def valid(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def is_fresh(leaf: x509.Certificate, authority: x509.Certificate, now: datetime) -> bool:
    """Whether `leaf` may stay: of this authority, with more than a third of its life left."""
    end = leaf.not_valid_after_utc
    life = end - leaf.not_valid_before_utc - SKEW
    return leaf.not_valid_before_utc <= now and end - now > life / 3 and _issued(leaf, authority)


def hosts_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """The names and addresses for which it is made."""
    return tuple(str(name.value) for name in _names(leaf))


def covers(leaf: x509.Certificate, hosts: Iterable[str]) -> bool:
    """Whether it is made for all of `hosts`; an address may be spelt in any way."""
    return {_general_name(host) for host in hosts} <= set(_names(leaf))


def _names(leaf: x509.Certificate) -> list[x509.DNSName | x509.IPAddress]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return []
    return [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _issued(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - SKEW,
        not_valid_after=end,
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _general_name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
