"""Where the commands that explain and compare read objects: in a folder, or from an API server, which they ask once."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recommender.api.object_store import FileObjectStore, ObjectReader
from vllm_rightsizer.errors import UsageError, UserError, require_folder, require_kubeconfig

What = Literal["sizes", "workloads", "fleet", "namespaces"]


class RefusedSourceError(UserError):
    """The API server does not let the user see what is needed."""


@dataclass(frozen=True)
class Source:
    """`objects`: folder of the object store, None for the API server, which `kubeconfig` and its `context` reach."""

    objects: Path | None
    kubeconfig: Path | None = None
    context: str | None = None


def read_sizes(source: Source, namespace: str | None = None) -> ObjectReader:
    """Policies and recommendations, of an API server those of `namespace` alone, where one is given. Raises as
    `read_fleet`."""
    return _folder(source) or _listed(source, "sizes", namespace)


def read_workloads(source: Source, namespace: str | None = None) -> ObjectReader:
    """Recommendations and pods, of an API server those of `namespace` alone, where one is given, and the automation
    that says which pods belong together. Raises as `read_fleet`."""
    try:
        return _folder(source) or _listed(source, "workloads", namespace)
    except RefusedSourceError as error:
        if namespace is not None:
            raise
        raise UserError(f"{error}, or ask for one namespace with -n") from error


def read_namespaces(source: Source) -> ObjectReader:
    """Namespaces. Raises as `read_fleet`."""
    return _folder(source) or _listed(source, "namespaces")


def read_fleet(source: Source) -> ObjectReader:
    """Pods, their owners and Nodes too. Raises `UsageError` where the options contradict each other, `UserError` where
    the API server is not known or does not show what is needed."""
    return _folder(source) or _listed(source, "fleet")


def _folder(source: Source) -> ObjectReader | None:
    if source.objects is None:
        return None
    if source.kubeconfig is not None or source.context is not None:
        raise UsageError("--objects stands in for the API server: leave it out, or --kubeconfig and --context")
    require_folder(source.objects)
    return FileObjectStore(source.objects)


def _listed(source: Source, what: What, namespace: str | None = None) -> ObjectReader:
    # What speaks with API servers takes a second to be brought in.
    from recommender.api.apiserver.connection import ApiServer, CredentialsError
    from recommender.cluster_objects import NAMESPACES
    from recommender.listed_objects import FLEET, SIZES, WORKLOADS, ListingError, RefusedError, list_objects

    resources = {"sizes": SIZES, "workloads": WORKLOADS, "fleet": FLEET, "namespaces": (NAMESPACES,)}[what]

    kubeconfig = source.kubeconfig or own_kubeconfig()
    require_kubeconfig(kubeconfig, source.context)

    async def listed() -> ObjectReader:
        server = await ApiServer.connect(kubeconfig, source.context)
        try:
            return await list_objects(server, resources, namespace)
        finally:
            await server.close()

    try:
        return asyncio.run(listed())
    except CredentialsError as error:
        raise UserError(f"{error}, or the objects in a folder with --objects") from error
    except RefusedError as error:
        raise RefusedSourceError(str(error)) from error
    except ListingError as error:
        raise UserError(str(error)) from error


def own_kubeconfig() -> Path | None:
    """The one that kubectl would take; None where there is none, as in a pod, which has a service account. Raises
    `UsageError` where kubectl would take several together."""
    named = [path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    if len(named) > 1:
        raise UsageError(f"KUBECONFIG names several files ({', '.join(named)}): name one of them with --kubeconfig")
    if named:
        return Path(named[0])
    own = Path(os.environ.get("HOME", "/")) / ".kube" / "config"
    return own if own.is_file() else None
