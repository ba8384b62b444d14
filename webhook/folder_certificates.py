"""Certificates in a folder: the webhook's own where there is no API server, or those that cert-manager mounts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from webhook.certificates import ensure_certificates
from webhook.pairs import LIFETIMES, read_bundle, verifies
from webhook.publishing import Publication
from webhook.serving import Served

logger = logging.getLogger(__name__)

_RENEWAL_SECONDS = 3600.0
_LOOK_SECONDS = 1.0
"""A mounted Secret changes without a sign; two small files are read."""


class OwnFolder:
    """Makes certificates in a folder, and renews them there. Whoever calls the webhook takes the `ca.crt` from it."""

    def __init__(self, folder: Path, hosts: tuple[str, ...]) -> None:
        """Raises OSError where the folder cannot be written to."""
        self._folder = folder
        self._hosts = hosts
        self.served = Served()
        self._renew()

    @property
    def trouble(self) -> str | None:
        return None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with _repeated(self._renew, _RENEWAL_SECONDS, f"the certificate in {self._folder} cannot be renewed"):
            yield

    def _renew(self) -> None:
        files = ensure_certificates(self._folder, self._hosts)
        if self.served.certificate is None or self.served.certificate.not_valid_after_utc != files.expires:
            self.served.load(files.certificate.read_bytes(), files.key.read_bytes())
            logger.info("a new certificate is served", extra={"expires": files.expires.isoformat()})


class MountedFolder:
    """Serves what another one keeps in `tls.crt` and `tls.key` of a folder, and publishes. Here nothing is written.

    cert-manager's leaves are valid from the second on in which they are made. A new one waits until it is old enough
    for an API server whose clock is behind, for as long as the one that is served will do.
    """

    def __init__(self, folder: Path, publication: Publication, skew: timedelta = LIFETIMES.skew) -> None:
        self._folder = folder
        self._publication = publication
        self._skew = skew
        self.served = Served()
        self._content: tuple[bytes, bytes] | None = None
        self._unread: str | None = f"nothing was read in {folder} yet"

    @property
    def trouble(self) -> str | None:
        certificate = self.served.certificate
        if certificate is None:
            return self._unread
        if self._publication.trouble is not None:
            return self._publication.trouble
        if not self._verifies(certificate, datetime.now(UTC)):
            return f"the certificate in {self._folder} does not verify under the published caBundle"
        return None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with (
            self._publication.followed(),
            _repeated(self._look, _LOOK_SECONDS, f"the certificate in {self._folder} cannot be read"),
        ):
            yield

    def _look(self) -> None:
        try:
            content = (self._folder / "tls.crt").read_bytes(), (self._folder / "tls.key").read_bytes()
            if content == self._content or self._may_wait(content[0]):
                return
            self.served.load(*content)
        except (OSError, ssl.SSLError, ValueError) as error:
            # Between the two files' changes they may not belong together; the next look will tell.
            self._say(f"the certificate in {self._folder} cannot be used: {error}")
            return
        self._content = content
        self._unread = None
        logger.info("a new certificate is served", extra={"expires": self.served.expires})

    def _may_wait(self, certificate_pem: bytes) -> bool:
        """It is too young for an API server whose clock is behind, and what is served is good for a while."""
        now, served = datetime.now(UTC), self.served.certificate
        chain = read_bundle(certificate_pem)
        if served is None or not chain or chain[0].not_valid_before_utc <= now - self._skew:
            return False
        known = self._publication.trouble is None
        return known and all(self._verifies(served, at) for at in (now, now + self._skew))

    def _verifies(self, certificate: x509.Certificate, now: datetime) -> bool:
        return all(verifies(certificate, bundle, now, self.served.between) for bundle in self._publication.bundles)

    def _say(self, sentence: str) -> None:
        if sentence != self._unread:
            logger.warning("%s", sentence)
        self._unread = sentence


@contextlib.asynccontextmanager
async def _repeated(act: Callable[[], None], seconds: float, failing: str) -> AsyncIterator[None]:
    """`act` at once, and again and again beside the block."""

    async def run() -> None:
        while True:
            try:
                act()
            except Exception:
                logger.exception("%s", failing)
            await asyncio.sleep(seconds)

    task = asyncio.create_task(run(), name="certificates")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
