"""Certificates are made once, kept while good, and renewed in time under the same authority."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from webhook.certificates import AUTHORITY_LIFETIME, LEAF_LIFETIME, ensure_certificates

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def _leaf(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())


def test_new_certificates(tmp_path: Path) -> None:
    files = ensure_certificates(tmp_path / "tls", ["webhook.example.svc", "10.0.0.7"], NOW)
    assert files.expires == NOW + LEAF_LIFETIME
    leaf = _leaf(files.folder)
    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    leaf.verify_directly_issued_by(authority)
    assert authority.not_valid_after_utc == NOW + AUTHORITY_LIFETIME
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["webhook.example.svc", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "127.0.0.1"]
    for name in ("tls.key", "ca.key"):
        assert stat.S_IMODE((files.folder / name).stat().st_mode) == 0o600
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.certificate, files.key)
    # API servers whose clock is five minutes behind still accept it.
    assert leaf.not_valid_before_utc <= NOW - timedelta(minutes=5)


def test_good_ones_are_kept(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, now=NOW)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ensure_certificates(tmp_path, now=NOW + timedelta(days=59))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("later", "hosts", "same_authority"),
    [
        (timedelta(days=61), (), True),
        (timedelta(days=1), ("another.host",), True),
        (AUTHORITY_LIFETIME - timedelta(days=80), (), False),
        (timedelta(days=-1), (), True),
    ],
)
def test_renewed(tmp_path: Path, later: timedelta, hosts: tuple[str, ...], same_authority: bool) -> None:
    ensure_certificates(tmp_path, now=NOW)
    authority, leaf = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "tls.crt").read_bytes()
    files = ensure_certificates(tmp_path, hosts, NOW + later)
    assert (tmp_path / "tls.crt").read_bytes() != leaf
    assert ((tmp_path / "ca.crt").read_bytes() == authority) is same_authority
    assert files.expires == NOW + later + LEAF_LIFETIME


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_damaged_files_are_made_anew(tmp_path: Path, name: str, content: bytes | None) -> None:
    ensure_certificates(tmp_path, now=NOW)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    files = ensure_certificates(tmp_path, now=NOW)
    _leaf(tmp_path).verify_directly_issued_by(x509.load_pem_x509_certificate(files.ca.read_bytes()))
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(files.certificate, files.key)
