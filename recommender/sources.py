"""Where objects are read and written: an API server, or a folder that stands in for it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recommender.api.apiserver.connection import ApiServer
from recommender.api.object_store import FileObjectStore, ObjectStore
from recommender.api.scopes import Scope
from recommender.cluster_objects import ClusterObjects
from recommender.discovery import Census, census_of
from recommender.leading import Candidate, Leadership, Sole
from recommender.telemetry import Telemetry


@dataclass(frozen=True)
class Objects:
    """`revision` changes with what people say in them, `waiting` is what keeps them from being read, and `trouble` what
    is not up to date. They are written only within `writing`, by whoever has the `leadership`."""

    where: str
    store: ObjectStore
    revision: Callable[[], object]
    leadership: Leadership
    writing: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext
    look: Callable[[], Census] | None = None
    waiting: Callable[[], str | None] = lambda: None
    trouble: Callable[[], str | None] = lambda: None


def in_folder(folder: Path, scope: Scope) -> Objects:
    """One recommender at a time writes there: the history that it holds says so."""
    store = FileObjectStore(folder)
    return Objects(str(folder), store, store.revision, Sole(), look=partial(census_of, store, scope))


@contextlib.asynccontextmanager
async def on_api_server(
    kubeconfig: Path | None,
    context: str | None,
    scope: Scope,
    namespace: str,
    telemetry: Telemetry,
    *,
    leader_elect: bool = True,
    plugin_maps: bool = True,
    gpu_claims: bool = True,
) -> AsyncIterator[Objects]:
    """Followed for the length of the block. `namespace` is that of our servers, whose pods the webhook is not asked
    about; with `leader_elect` it has the lease by which one of several recommenders leads. Without `plugin_maps` and
    `gpu_claims` ConfigMaps and ResourceClaimTemplates are left alone. Raises `CredentialsError`."""
    async with contextlib.AsyncExitStack() as stack:
        server = await ApiServer.connect(kubeconfig, context)
        stack.push_async_callback(server.close)
        cluster = ClusterObjects(
            server,
            telemetry,
            instance=socket.gethostname(),
            scope=scope,
            own=namespace,
            plugin_maps=plugin_maps,
            gpu_claims=gpu_claims,
        )
        await stack.enter_async_context(cluster.following())
        leadership: Leadership = Sole()
        if leader_elect:
            # Of its own: neither watches nor writes keep a renewal waiting.
            elections = await ApiServer.connect(kubeconfig, context)
            stack.push_async_callback(elections.close)
            candidate = Candidate(elections, namespace, lambda: cluster.synced, telemetry.registry)
            await stack.enter_async_context(candidate.running())
            leadership = candidate
        writes = await ApiServer.connect(kubeconfig, context, leadership.held_seconds)
        stack.push_async_callback(writes.close)
        yield Objects(
            server.url,
            cluster,
            cluster.revision,
            leadership,
            lambda: cluster.writing(writes),
            cluster.census,
            lambda: None if cluster.synced else cluster.trouble,
            lambda: cluster.trouble,
        )
