"""Certificates in a Secret that all replicas share, renewed by whichever comes first, and published by all."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer, Raw
from recommender.api.apiserver.reflector import Pace, Reflector, Selection
from recommender.api.apiserver.resources import Resource
from webhook.pairs import LIFETIMES, Lifetimes, verifies
from webhook.publishing import Publication
from webhook.rotation import Shared, next_step, read_shared
from webhook.serving import Served

logger = logging.getLogger(__name__)

SECRETS = Resource("", "v1", "secrets", "Secret")
_LONGEST_WAIT_SECONDS = 3600.0
_RETRY_SECONDS = 1.0
_FIRST_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class _Held:
    """The Secret as the API server holds it."""

    version: str
    data: tuple[tuple[str, str], ...]

    def shared(self) -> Shared | None:
        return read_shared({name: base64.b64decode(value) for name, value in self.data})


class SecretCertificates:
    """Keeps the Secret `name` and the published caBundle in step with the clock, and serves the Secret's leaf.

    A leaf is served once it verifies under what is published. What was written is used when the watch shows it: so all
    replicas do the same, the one that wrote it too.
    """

    def __init__(
        self,
        server: ApiServer,
        namespace: str,
        name: str,
        configuration: str,
        hosts: Sequence[str],
        lifetimes: Lifetimes = LIFETIMES,
        pace: Pace | None = None,
    ) -> None:
        self.served = Served()
        self._server = server
        self._namespace = namespace
        self._name = name
        self._hosts = tuple(hosts)
        self._lifetimes = lifetimes
        self._something_changed = asyncio.Event()
        self._publication = Publication(server, configuration, self._something_changed.set, pace)
        self._secret: Reflector[_Held] = Reflector(
            server,
            SECRETS,
            _held,
            changed=lambda _before, _after: self._something_changed.set(),
            selection=Selection(namespace=namespace, name=name),
            pace=pace,
        )
        self._loaded: bytes | None = None
        self._published: tuple[x509.Certificate, float] | None = None
        """The coming authority, and since when it has been seen published."""
        self._failing: str | None = None

    @property
    def trouble(self) -> str | None:
        certificate = self.served.certificate
        if certificate is not None and self._verifies(certificate):
            return None
        unknown = "no certificate is served that the published caBundle knows"
        return self._failing or self._secret.trouble or self._publication.trouble or unknown

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self._publication.followed():
            tasks = [asyncio.create_task(run(), name="certificates") for run in (self._secret.run, self._run)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        tick = min(_LONGEST_WAIT_SECONDS, self._lifetimes.leaf.total_seconds() / 30)
        while True:
            self._something_changed.clear()
            wait = tick
            try:
                await self._step()
                if not self._secret.synced:
                    # That there is no Secret yet is no change, of which the watch would tell.
                    wait = _FIRST_LOOK_SECONDS
                elif self._waits_to_settle():
                    wait = min(tick, self._lifetimes.settling.total_seconds() / 5)
                self._failing = None
            except ApiError as error:
                # 409: another replica was quicker; what it wrote is on its way here.
                wait = _RETRY_SECONDS if error.status == 409 else self._failed(f"{error}")
            except CONNECTION_ERRORS as error:
                wait = self._failed(f"{type(error).__name__}: {error}")
            except Exception as error:
                logger.exception("the certificates cannot be renewed")
                wait = self._failed(f"{type(error).__name__}: {error}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._something_changed.wait()

    async def _step(self) -> None:
        if not self._secret.synced:
            return
        held = self._secret.objects.get((self._namespace, self._name))
        shared = held.shared() if held is not None else None
        wanted = next_step(
            shared, self._hosts, datetime.now(UTC), self._lifetimes, coming_is_known=self._coming_is_known(shared)
        )
        if shared is None or wanted is not shared:
            await self._write(held, wanted)
            return
        self._serve(shared)
        if self._publication.trouble is None and await self._publication.publish(shared.authorities):
            logger.info("the caBundle of %s is written", self._publication.name)

    def _serve(self, shared: Shared) -> None:
        """Load the leaf once it is accepted; before that it would be refused where the old one may not be."""
        pem = shared.leaf.certificate_pem
        if pem == self._loaded or not self._verifies(shared.leaf.certificate):
            return
        self.served.load(pem, shared.leaf.key_pem)
        self._loaded = pem
        expires = shared.leaf.certificate.not_valid_after_utc.isoformat()
        logger.info("a new certificate is served", extra={"expires": expires})

    async def _write(self, held: _Held | None, wanted: Shared) -> None:
        """The version is the lock: of two replicas only one writes."""
        metadata: Raw = {"name": self._name, "namespace": self._namespace}
        path = SECRETS.path(self._namespace)
        method = "POST"
        body: Raw = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "Opaque",
            "data": {name: base64.b64encode(value).decode() for name, value in wanted.data().items()},
        }
        if held is not None:
            # Labels, and the type that whoever made it empty chose, stay: only the data is replaced.
            method, path = "PATCH", SECRETS.path(self._namespace, self._name)
            gone: Raw = {name: None for name, _ in held.data if name not in body["data"]}
            body = {"data": {**body["data"], **gone}}
            metadata = {"resourceVersion": held.version}
        await self._server.request(
            method,
            path,
            body={**body, "metadata": metadata},
            content_type="application/merge-patch+json" if held is not None else "application/json",
        )
        logger.info("the certificates in the Secret %s/%s are renewed", self._namespace, self._name)

    def _coming_is_known(self, shared: Shared | None) -> bool:
        """The coming authority has been published for long enough."""
        coming = shared.coming.certificate if shared is not None and shared.coming is not None else None
        if coming is None or self._publication.trouble is not None:
            self._published = None
            return False
        if not all(coming in bundle for bundle in self._publication.bundles):
            self._published = None
            return False
        if self._published is None or self._published[0] != coming:
            self._published = (coming, time.monotonic())
        return time.monotonic() - self._published[1] >= self._lifetimes.settling.total_seconds()

    def _waits_to_settle(self) -> bool:
        return self._published is not None

    def _verifies(self, certificate: x509.Certificate) -> bool:
        if self._publication.trouble is not None:
            return False
        now = datetime.now(UTC)
        return all(verifies(certificate, bundle, now) for bundle in self._publication.bundles)

    def _failed(self, sentence: str) -> float:
        if sentence != self._failing:
            logger.warning("the certificates cannot be kept: %s", sentence)
        self._failing = sentence
        return _RETRY_SECONDS


def _held(raw: Raw) -> _Held:
    return _Held(raw["metadata"]["resourceVersion"], tuple(sorted((raw.get("data") or {}).items())))
