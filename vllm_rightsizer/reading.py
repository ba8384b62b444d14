"""Where the commands that explain and compare read objects: in a folder, or from an API server, which they ask once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recommender.api.object_store import FileObjectStore, ObjectReader
from vllm_rightsizer.errors import UsageError, UserError, require_folder
from vllm_rightsizer.kubeconfigs import DEFAULT_NAMESPACE, Access, access

What = Literal["sizes", "recommendations", "fleet", "namespaces", "configurations"]


class RefusedSourceError(UserError):
    """The API server does not let the user see what is needed."""


@dataclass(frozen=True)
class Source:
    """`objects`: folder of the object store, None for the API server, which `kubeconfig` and its `context` reach."""

    objects: Path | None
    kubeconfig: Path | None = None
    context: str | None = None

    @property
    def namespace(self) -> str:
        """Where a name is looked for that says none: that of the context. Raises `UsageError`."""
        return DEFAULT_NAMESPACE if self.objects is not None else self.access.namespace

    @property
    def access(self) -> Access:
        """How the API server is reached. Raises `UsageError` where there is no such context."""
        return access(self.kubeconfig, self.context)


def read_sizes(source: Source, namespace: str | None = None) -> ObjectReader:
    """Policies and recommendations, of an API server those of `namespace` alone, where one is given. Raises as
    `read_fleet`."""
    return folder_of(source) or _listed(source, "sizes", namespace)


def read_recommendations(source: Source, namespace: str | None = None) -> ObjectReader:
    """Recommendations, of an API server those of `namespace` alone, where one is given. Raises as `read_fleet`."""
    try:
        return folder_of(source) or _listed(source, "recommendations", namespace)
    except RefusedSourceError as error:
        if namespace is not None:
            raise
        raise UserError(f"{error}, or ask for one namespace with -n") from error


def read_namespaces(source: Source) -> ObjectReader:
    """Namespaces. Raises as `read_fleet`."""
    return folder_of(source) or _listed(source, "namespaces")


def read_configurations(source: Source) -> ObjectReader:
    """MutatingWebhookConfigurations: which pods the API server asks our webhook about. Raises as `read_fleet`."""
    return folder_of(source) or _listed(source, "configurations")


def read_fleet(source: Source) -> ObjectReader:
    """Pods, their owners and Nodes too. Raises `UsageError` where the options contradict each other, `UserError` where
    the API server is not known or does not show what is needed."""
    return folder_of(source) or _listed(source, "fleet")


def folder_of(source: Source) -> FileObjectStore | None:
    """The folder in which the objects lie; None where an API server has them. Raises `UsageError`."""
    if source.objects is None:
        return None
    if source.kubeconfig is not None or source.context is not None:
        raise UsageError("--objects stands in for the API server: leave it out, or --kubeconfig and --context")
    require_folder(source.objects)
    return FileObjectStore(source.objects)


def _listed(source: Source, what: What, namespace: str | None = None) -> ObjectReader:
    # What speaks with API servers takes a second to be brought in.
    from recommender.api.apiserver.connection import ApiServer, CredentialsError
    from recommender.cluster_objects import NAMESPACES, RECOMMENDATIONS
    from recommender.listed_objects import FLEET, SIZES, ListingError, RefusedError, list_objects

    if what == "configurations":
        # It brings in what makes certificates.
        from webhook.publishing import CONFIGURATIONS

        resources = [CONFIGURATIONS]
    else:
        kinds = {"sizes": SIZES, "recommendations": (RECOMMENDATIONS,), "fleet": FLEET, "namespaces": (NAMESPACES,)}
        resources = list(kinds[what])
    way = source.access

    async def listed() -> ObjectReader:
        server = await ApiServer.connect(way.kubeconfig, way.context)
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
