"""Where the commands that explain and compare read objects: in a folder, or from an API server, which they ask once."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from recommender.api.object_store import FileObjectStore, ObjectReader
from vllm_rightsizer.errors import UsageError, UserError, require_folder, require_kubeconfig


@dataclass(frozen=True)
class Source:
    """`objects`: folder of the object store, None for the API server, which `kubeconfig` and its `context` reach."""

    objects: Path | None
    kubeconfig: Path | None = None
    context: str | None = None


def read_sizes(source: Source, namespace: str | None = None) -> ObjectReader:
    """Policies and recommendations, of an API server those of `namespace` alone, where one is given. Raises as
    `read_fleet`."""
    return _folder(source) or _listed(source, with_pods=False, namespace=namespace)


def read_fleet(source: Source) -> ObjectReader:
    """Pods, their owners and Nodes too. Raises `UsageError` where the options contradict each other, `UserError` where
    the API server is not known or does not show what is needed."""
    return _folder(source) or _listed(source, with_pods=True)


def _folder(source: Source) -> ObjectReader | None:
    if source.objects is None:
        return None
    if source.kubeconfig is not None or source.context is not None:
        raise UsageError("--objects stands in for the API server: leave it out, or --kubeconfig and --context")
    require_folder(source.objects)
    return FileObjectStore(source.objects)


def _listed(source: Source, *, with_pods: bool, namespace: str | None = None) -> ObjectReader:
    # What speaks with API servers takes a second to be brought in.
    from recommender.api.apiserver.connection import ApiServer, CredentialsError
    from recommender.listed_objects import FLEET, SIZES, ListingError, list_objects

    kubeconfig = source.kubeconfig or own_kubeconfig()
    require_kubeconfig(kubeconfig, source.context)

    async def listed() -> ObjectReader:
        server = await ApiServer.connect(kubeconfig, source.context)
        try:
            return await list_objects(server, FLEET if with_pods else SIZES, namespace)
        finally:
            await server.close()

    try:
        return asyncio.run(listed())
    except CredentialsError as error:
        raise UserError(f"{error}, or the objects in a folder with --objects") from error
    except ListingError as error:
        raise UserError(str(error)) from error


def own_kubeconfig() -> Path | None:
    """The one that kubectl would take; None where there is none, as in a pod, which has a service account."""
    if named := os.environ.get("KUBECONFIG"):
        return Path(named)
    own = Path(os.environ.get("HOME", "/")) / ".kube" / "config"
    return own if own.is_file() else None
