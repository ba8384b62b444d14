"""Several collections of one API server, followed together: webhook and recommender each have one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from recommender.api.apiserver.reflector import Changed, Reflector


class Mirror:
    """Follows all of `reflectors`, each of another kind, on one event loop."""

    def __init__(self, *reflectors: Reflector[Any]) -> None:
        self._reflectors = reflectors

    @property
    def synced(self) -> bool:
        """Each collection has been read whole: before that, what is not there may be there all the same."""
        return all(reflector.synced for reflector in self._reflectors)

    @property
    def trouble(self) -> str | None:
        """What is not known, or no longer followed, in a sentence."""
        troubles = [f"{reflector.resource}: {reflector.trouble}" for reflector in self._reflectors if reflector.trouble]
        waiting = [str(reflector.resource) for reflector in self._reflectors if not reflector.synced]
        if waiting:
            troubles.append(f"not read yet: {', '.join(waiting)}")
        return "; ".join(troubles) or None

    def lacks(self) -> Mapping[str, bool]:
        """Whether a collection that may be refused is, by kind."""
        return {reflector.resource.kind: reflector.lack is not None for reflector in self._reflectors}

    def ages(self) -> Mapping[str, float]:
        """Seconds, by kind, since the server was last heard of."""
        return {reflector.resource.kind: reflector.age_seconds for reflector in self._reflectors}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows them for the length of the block."""
        tasks = [asyncio.create_task(reflector.run(), name=str(reflector.resource)) for reflector in self._reflectors]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def kept_in(mapping: dict[Any, Any], then: Callable[[], None] = lambda: None) -> Changed[tuple[Any, Any]]:
    """Keeps `mapping` as the objects of one collection say, each of which is kept as a key and a value."""

    def changed(before: tuple[Any, Any] | None, after: tuple[Any, Any] | None) -> None:
        if before is not None:
            del mapping[before[0]]
        if after is not None:
            mapping[after[0]] = after[1]
        then()

    return changed
