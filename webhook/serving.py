"""The certificate that is served at this moment, whoever made it."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509

from webhook.pairs import new_authority, new_leaf, read_bundle


class Certificates(Protocol):
    """Where the served certificate comes from while the server runs."""

    served: Served

    @property
    def trouble(self) -> str | None:
        """Why the API server would not accept what is served, in a sentence."""

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Renews for the length of the block."""


class Served:
    """A live TLS context. What is loaded holds from the next handshake on; open connections stay as they are.

    Until the first load it serves a certificate that nobody trusts: probes are answered, reviews do not come.
    """

    def __init__(self) -> None:
        now = datetime.now(UTC)
        placeholder = new_leaf(new_authority(now), ["localhost"], now)
        self._present = _context(placeholder.certificate_pem + placeholder.key_pem)
        # A context keeps one certificate for each kind of key: what is loaded into a live one may leave another beside
        # it, and clients choose. So each handshake is given the context of what was loaded last.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.sni_callback = self._choose
        self.certificate: x509.Certificate | None = None
        self.between: tuple[x509.Certificate, ...] = ()
        """Served with it: authorities between it and whom callers know."""

    @property
    def begins(self) -> float:
        """Unix time; not a number before the first load."""
        return self.certificate.not_valid_before_utc.timestamp() if self.certificate is not None else float("nan")

    @property
    def expires(self) -> float:
        """Unix time; not a number before the first load."""
        return self.certificate.not_valid_after_utc.timestamp() if self.certificate is not None else float("nan")

    def load(self, certificate_pem: bytes, key_pem: bytes) -> None:
        """Serve this certificate, its chain with it. Raises `ssl.SSLError` or ValueError where it cannot be used."""
        chain = read_bundle(certificate_pem)
        if not chain:
            raise ValueError("there is no certificate in it")
        self._present = _context(certificate_pem + key_pem)
        self.certificate, *between = chain
        self.between = tuple(between)

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called for clients that name nobody, too."""
        connection.context = self._present


def _context(pem: bytes) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _as_file(pem) as path:
        made.load_cert_chain(path)
    return made


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path under which OpenSSL can read `content`: in memory where the system can, so that no key touches a disk."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("tls"), "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
