"""The Prometheus-compatible backend as a whole, for the service: what it says of itself, and a source for each term."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry

from recommender.history import History
from recommender.promql.asking import Asking
from recommender.promql.client import PrometheusClient, PromqlTelemetry
from recommender.promql.memories import Memories
from recommender.promql.settings import PrometheusSettings
from recommender.promql.source import PrometheusSource


class PrometheusBackend:
    """One a process. A process that stands by asks nothing, and shows nothing of pods."""

    def __init__(self, settings: PrometheusSettings, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._registry = registry
        self._telemetry = PromqlTelemetry(registry)

    @contextlib.asynccontextmanager
    async def source(self, history: History) -> AsyncIterator[PrometheusSource]:
        """Where intervals come from, for as long as this process writes to `history`, which is their cache."""
        memories = Memories()
        async with PrometheusClient(self._settings, self._telemetry) as client:
            source = PrometheusSource(Asking(client, self._settings), self._telemetry, memories, history)
            self._registry.register(memories)
            asking = asyncio.create_task(source.run())
            try:
                yield source
            finally:
                self._registry.unregister(memories)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
