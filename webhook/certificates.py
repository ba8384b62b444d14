"""The webhook's own certificates in a folder: an authority, and under it a leaf."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from webhook.pairs import LIFETIMES, Pair, hosts_of, is_fresh, new_authority, new_leaf, read_pair

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
    if authority is None or authority.certificate.not_valid_after_utc < now + LIFETIMES.leaf:
        authority = new_authority(now)
        _write(folder / "ca.key", authority.key_pem, 0o600)
        _write(folder / "ca.crt", authority.certificate_pem, 0o644)
    leaf = _load(folder / "tls.crt", folder / "tls.key")
    fresh = leaf is not None and is_fresh(leaf.certificate, authority.certificate, now)
    if leaf is None or not fresh or not set(wanted) <= set(hosts_of(leaf.certificate)):
        leaf = new_leaf(authority, wanted, now)
        _write(folder / "tls.key", leaf.key_pem, 0o600)
        _write(folder / "tls.crt", leaf.certificate_pem, 0o644)
    return CertificateFiles(folder, leaf.certificate.not_valid_after_utc)


def _load(certificate_file: Path, key_file: Path) -> Pair | None:
    try:
        return read_pair(certificate_file.read_bytes(), key_file.read_bytes())
    except OSError:
        return None


def _write(path: Path, content: bytes, mode: int) -> None:
    """Put the file there in one step; its mode holds from the first byte on."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
    Path(temporary).replace(path)
