"""The webhook's own certificates in a folder: what a Secret holds in a cluster, as files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from webhook.pairs import LIFETIMES, SKEW, pem_of
from webhook.rotation import FILES, Shared, next_step, read_shared

_ALWAYS = ("localhost", "127.0.0.1")
_PUBLIC = ".crt"


@dataclass(frozen=True)
class CertificateFiles:
    """Where the certificates lie, and when the leaf ends. The authority's key stays beside them, for the next leaf."""

    folder: Path
    expires: datetime

    @property
    def ca(self) -> Path:
        """Every authority that a caller should know, the present one first."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        return self.folder / "tls.key"


def ensure_certificates(folder: Path, hosts: Sequence[str] = (), now: datetime | None = None) -> CertificateFiles:
    """Certificates in `folder` for `hosts`, localhost and 127.0.0.1: those that are there while good, else their next
    step, as `rotation` says.
    """
    now = now or datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: _read(folder / name) for name in FILES}
    shared = read_shared(held)
    wanted = next_step(
        shared,
        tuple(dict.fromkeys((*hosts, *_ALWAYS))),
        now,
        LIFETIMES,
        coming_is_known=shared is not None and _has_settled(shared, now),
    )
    if wanted is not shared:
        _write_all(folder, wanted.data() | {"ca.crt": pem_of(*wanted.authorities)})
    return CertificateFiles(folder, wanted.leaf.certificate.not_valid_after_utc)


def _has_settled(shared: Shared, now: datetime) -> bool:
    """The coming authority, published since it was made, has been for long enough."""
    coming = shared.coming
    return coming is not None and coming.certificate.not_valid_before_utc + SKEW + LIFETIMES.settling <= now


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _write_all(folder: Path, data: Mapping[str, bytes]) -> None:
    for name in FILES:
        if name in data:
            _write(folder / name, data[name], 0o644 if name.endswith(_PUBLIC) else 0o600)
        else:
            (folder / name).unlink(missing_ok=True)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Put the file there in one step; its mode holds from the first byte on."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
    Path(temporary).replace(path)
