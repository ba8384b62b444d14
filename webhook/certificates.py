"""The webhook's own certificates: an authority for ten years, and under it a leaf that lives 90 days."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=90)
_SKEW = timedelta(minutes=10)
"""Certificates are valid from a little before now: clocks of API server and webhook differ."""
_ALWAYS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class CertificateFiles:
    """Where the certificates lie, and when the leaf ends. The authority's key stays beside them, for the next leaf."""

    folder: Path
    expires: datetime

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"


def ensure_certificates(folder: Path, hosts: Sequence[str] = (), now: datetime | None = None) -> CertificateFiles:
    """Certificates in `folder` for `hosts`, localhost and 127.0.0.1: those that are there while good, else new ones.

    A leaf is renewed when a third of its life is left, the authority when its life is shorter than a new leaf's.
    """
    now = now or datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = tuple(dict.fromkeys((*hosts, *_ALWAYS)))
    authority = _load(folder / "ca.crt", folder / "ca.key")
    if authority is None or authority.certificate.not_valid_after_utc < now + LEAF_LIFETIME:
        authority = _new_authority(now)
        _write(folder / "ca.key", authority.key_pem, 0o600)
        _write(folder / "ca.crt", authority.certificate_pem, 0o644)
    leaf = _load(folder / "tls.crt", folder / "tls.key")
    if leaf is None or not _good(leaf.certificate, authority.certificate, wanted, now):
        leaf = _new_leaf(authority, wanted, now)
        _write(folder / "tls.key", leaf.key_pem, 0o600)
        _write(folder / "tls.crt", leaf.certificate_pem, 0o644)
    return CertificateFiles(folder, leaf.certificate.not_valid_after_utc)


@dataclass(frozen=True)
class _Pair:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def _load(certificate_file: Path, key_file: Path) -> _Pair | None:
    """The pair in the two files; None where they are missing, unreadable, or do not belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
        return None
    return _Pair(certificate, key)


def _good(leaf: x509.Certificate, authority: x509.Certificate, hosts: Sequence[str], now: datetime) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    fresh = leaf.not_valid_before_utc <= now and leaf.not_valid_after_utc - now > LEAF_LIFETIME / 3
    return fresh and all(_general_name(host) in names for host in hosts)


def _new_authority(now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"vllm-rightsizer webhook {now:%Y-%m-%d %H:%M:%S}")])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _builder(name, name, key, now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _new_leaf(authority: _Pair, hosts: Sequence[str], now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # A common name holds 64 characters; clients look at the alternative names alone.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(name, issuer.subject, key, now, LEAF_LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return _Pair(certificate, key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _SKEW,
        not_valid_after=now + lifetime,
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


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Put the file there in one step; its mode holds from the first byte on."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
    Path(temporary).replace(path)
