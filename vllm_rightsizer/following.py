"""Recommendations as they are at every moment: of an API server by a watch, of a folder by looking again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from recommender.api.object_store import FileObjectStore, Raw
from recommender.api.recommendations import VLLMRecommendation
from vllm_rightsizer.errors import UserError
from vllm_rightsizer.reading import Source, folder_of

_LOOK_SECONDS = 1.0
_GATHER_SECONDS = 0.2
"""What changes at the same moment is shown together."""


@dataclass(frozen=True)
class Look:
    """All recommendations at one moment. `trouble`: why they may be of an earlier one, in a sentence."""

    raws: tuple[Raw, ...]
    trouble: str | None = None


def looks(source: Source, namespace: str | None) -> AsyncGenerator[Look, None]:
    """One at once, and from then on one at least every second, whether anything changed or not; those of `namespace`,
    None for all. Never ends by itself. Raises `UserError` where the API server is not known."""
    folder = folder_of(source)
    return _of_server(source, namespace) if folder is None else _of_folder(folder, namespace)


async def _of_folder(folder: FileObjectStore, namespace: str | None) -> AsyncGenerator[Look, None]:
    while True:
        yield Look(tuple(folder.list(VLLMRecommendation.KIND, namespace)))
        await asyncio.sleep(_LOOK_SECONDS)


async def _of_server(source: Source, namespace: str | None) -> AsyncGenerator[Look, None]:
    # What speaks with API servers takes a second to be brought in.
    from recommender.api.apiserver import reflector as reflecting
    from recommender.api.apiserver.connection import ApiServer, CredentialsError
    from recommender.cluster_objects import RECOMMENDATIONS

    # It says what is wrong by its `trouble`, and a log would be written across the table.
    logging.getLogger(reflecting.__name__).setLevel(logging.CRITICAL)
    way, changed = source.access, asyncio.Event()
    try:
        server = await ApiServer.connect(way.kubeconfig, way.context)
    except CredentialsError as error:
        raise UserError(f"{error}, or the objects in a folder with --objects") from error

    def keep(raw: Raw) -> Raw:
        # Objects in lists do not say what they are, and most of what stands in them is bookkeeping.
        metadata = {name: value for name, value in raw["metadata"].items() if name != "managedFields"}
        return {**raw, "apiVersion": RECOMMENDATIONS.api_version, "kind": RECOMMENDATIONS.kind, "metadata": metadata}

    followed = reflecting.Reflector(
        server,
        RECOMMENDATIONS,
        keep,
        changed=lambda _before, _after: changed.set(),
        selection=reflecting.Selection(namespace=namespace),
    )
    task = asyncio.create_task(followed.run())
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _LOOK_SECONDS)
                await asyncio.sleep(_GATHER_SECONDS)
            changed.clear()
            if followed.synced or followed.trouble is not None:
                yield Look(tuple(followed.objects.values()), followed.trouble)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()
