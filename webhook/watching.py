"""Keeps the webhook's knowledge up to date, beside the requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from recommender.api.object_store import FileObjectStore
from webhook.knowledge import Knowledge, KnowledgeReader

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.2


class Watch(Protocol):
    """Where the knowledge comes from while the server runs."""

    @property
    def knowledge(self) -> Knowledge | None:
        """What is known; None until all of it was read once."""

    @property
    def trouble(self) -> str | None:
        """Why something is not known, or no longer followed, in a sentence."""

    def ages(self) -> Mapping[str, float]:
        """Seconds, by kind, since what is known was last known to be true; infinite before the first reading."""

    def running(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Follows the objects for the length of the block."""


class FolderWatch:
    """Reads a folder of objects again whenever it changed. What cannot be read leaves the last snapshot."""

    def __init__(self, store: FileObjectStore, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._store = store
        self._reader = KnowledgeReader(store)
        self._interval = interval_seconds
        self._knowledge: Knowledge | None = None
        self._checked_at: float | None = None
        self._revision: object = None
        self._trouble: str | None = None

    @property
    def knowledge(self) -> Knowledge | None:
        return self._knowledge

    @property
    def trouble(self) -> str | None:
        if self._trouble is None and self._knowledge is None:
            return "the objects have not been read yet"
        return self._trouble

    def ages(self) -> Mapping[str, float]:
        return {"all": float("inf") if self._checked_at is None else time.monotonic() - self._checked_at}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run(), name="knowledge")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def refresh(self) -> None:
        """Read the store if it changed since the last time."""
        revision = self._store.revision()
        if self._knowledge is None or revision != self._revision:
            # The revision is taken first: what is written meanwhile is read once more next time.
            self._knowledge = self._reader.read()
            self._revision = revision
        self._checked_at = time.monotonic()

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:
                trouble = f"the objects in {self._store.folder} cannot be read, the last ones hold: {error}"
                if self._trouble is None:
                    logger.warning("%s", trouble)
                self._trouble = trouble
            else:
                self._trouble = None
            await asyncio.sleep(self._interval)
