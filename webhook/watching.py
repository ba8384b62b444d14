"""Keeps the webhook's knowledge up to date, beside the requests."""

from __future__ import annotations

import logging
import threading
import time

from recommender.api.object_store import FileObjectStore
from webhook.knowledge import Knowledge, KnowledgeReader

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.2


class KnowledgeWatch:
    """A thread that reads the store again whenever it changed. A store that cannot be read leaves the last snapshot."""

    def __init__(self, store: FileObjectStore, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._store = store
        self._reader = KnowledgeReader(store)
        self._interval = interval_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="knowledge", daemon=True)
        self._knowledge: Knowledge | None = None
        self._checked_at: float | None = None
        self._revision: object = None
        self._failing = False

    @property
    def knowledge(self) -> Knowledge | None:
        """The latest snapshot; None before the first."""
        return self._knowledge

    @property
    def age_seconds(self) -> float:
        """Since the snapshot was last known to be what the store says; infinite before the first."""
        return float("inf") if self._checked_at is None else time.monotonic() - self._checked_at

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def refresh(self) -> None:
        """Read the store if it changed since the last time."""
        revision = self._store.revision()
        if self._knowledge is None or revision != self._revision:
            # The revision is taken first: what is written meanwhile is read once more next time.
            self._knowledge = self._reader.read()
            self._revision = revision
        self._checked_at = time.monotonic()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.refresh()
            except Exception as error:
                if not self._failing:
                    logger.warning(
                        "the objects in %s cannot be read, the last ones hold: %s", self._store.folder, error
                    )
                self._failing = True
            else:
                self._failing = False
            self._stopped.wait(self._interval)
