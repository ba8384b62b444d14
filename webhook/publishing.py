"""What the API server is told of our authorities: the caBundle of our MutatingWebhookConfiguration."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from cryptography import x509

from recommender.api.apiserver.connection import JSON_PATCH, ApiServer, Raw
from recommender.api.apiserver.reflector import Pace, Reflector, Selection
from recommender.api.apiserver.resources import Resource
from webhook.pairs import pem_of, read_bundle

CONFIGURATIONS = Resource(
    "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"
)

Entries = tuple[tuple[str, str], ...]
"""Name and caBundle of each webhook of the configuration."""


class Publication:
    """The configuration called `name`, as the API server holds it."""

    def __init__(
        self,
        server: ApiServer,
        name: str,
        changed: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
    ) -> None:
        self.name = name
        self._server = server
        self._reflector: Reflector[Entries] = Reflector(
            server,
            CONFIGURATIONS,
            _entries,
            changed=lambda _before, _after: changed(),
            selection=Selection(name=name),
            pace=pace,
        )

    @property
    def bundles(self) -> list[tuple[x509.Certificate, ...]]:
        """The authorities that are published, for each webhook of the configuration."""
        return [read_bundle(base64.b64decode(bundle)) for _, bundle in self._entries]

    @property
    def trouble(self) -> str | None:
        """Why nothing is known to be published."""
        if not self._reflector.synced:
            return self._reflector.trouble or f"the {CONFIGURATIONS.kind} {self.name} has not been read yet"
        if not self._entries:
            return f"there is no {CONFIGURATIONS.kind} {self.name} with a webhook in it: the API server calls nobody"
        return None

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._reflector.run(), name="publication")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def publish(self, authorities: Sequence[x509.Certificate]) -> bool:
        """Write them where they are not written yet; False where nothing had to be. Raises as `ApiServer.request`."""
        wanted = base64.b64encode(pem_of(*authorities)).decode()
        patch: list[Raw] = []
        for number, (name, bundle) in enumerate(self._entries):
            if bundle != wanted:
                # The test guards against a list that changed meanwhile.
                patch += [
                    {"op": "test", "path": f"/webhooks/{number}/name", "value": name},
                    {"op": "add", "path": f"/webhooks/{number}/clientConfig/caBundle", "value": wanted},
                ]
        if not patch:
            return False
        await self._server.request("PATCH", CONFIGURATIONS.path(name=self.name), body=patch, content_type=JSON_PATCH)
        return True

    @property
    def _entries(self) -> Entries:
        return self._reflector.objects.get(("", self.name), ())


def _entries(raw: Raw) -> Entries:
    return tuple(
        (webhook["name"], (webhook.get("clientConfig") or {}).get("caBundle") or "")
        for webhook in raw.get("webhooks") or ()
    )
