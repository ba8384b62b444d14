"""The objects of an API server as a command reads them: listed once, and never written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from recommender.api.apiserver.connection import CONNECTION_ERRORS, JSON, METADATA_LIST, ApiError, ApiServer
from recommender.api.apiserver.lists import pages
from recommender.api.apiserver.resources import Resource
from recommender.api.object_store import Raw
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS
from recommender.cluster_objects import AUTOMATION, NAMESPACES, NODES, PODS, POLICIES, RECOMMENDATIONS

SIZES = (RECOMMENDATIONS, POLICIES)
"""What is recommended, and by what."""
FLEET = (*SIZES, *AUTOMATION, PODS, NAMESPACES, NODES, *BUILT_IN_OWNERS, *CUSTOM_OWNERS)
"""All that decides who lies where, and what would be asked for him."""

_OF_NAMESPACES = (RECOMMENDATIONS, PODS)
_PAGE = 500


class ListingError(Exception):
    """The API server does not show what is needed; the message says what, why, and what to do."""


class RefusedError(ListingError):
    """Whoever asks may not see it."""


class ListedObjects:
    """An `ObjectReader` of objects by kind; of a kind that was not listed there is nothing to be read."""

    def __init__(self, listed: Mapping[str, Sequence[Raw]]) -> None:
        self._listed = {
            kind: {(raw["metadata"].get("namespace"), raw["metadata"]["name"]): raw for raw in raws}
            for kind, raws in listed.items()
        }

    def get(self, kind: str, namespace: str | None, name: str) -> Raw | None:
        return self._listed.get(kind, {}).get((namespace, name))

    def list(self, kind: str, namespace: str | None = None) -> list[Raw]:
        return [raw for key, raw in self._listed.get(kind, {}).items() if namespace in (None, key[0])]


async def list_objects(server: ApiServer, resources: Iterable[Resource], namespace: str | None = None) -> ListedObjects:
    """All objects of `resources`; recommendations and pods only of `namespace`, where one is given. Raises
    `ListingError`."""
    listed: dict[str, list[Raw]] = {}
    for resource in resources:
        listed[resource.kind] = await _list(server, resource, namespace if resource in _OF_NAMESPACES else None)
    return ListedObjects(listed)


async def _list(server: ApiServer, resource: Resource, namespace: str | None) -> list[Raw]:
    try:
        try:
            return await _read(server, resource, namespace, _PAGE)
        except ApiError as error:
            if error.status != 410:
                raise
        # The pages outlived their version.
        return await _read(server, resource, namespace, None)
    except ApiError as error:
        if error.status == 404 and resource in CUSTOM_OWNERS:
            return []
        kind = RefusedError if error.status == 403 else ListingError
        raise kind(f"{resource} cannot be listed at {server.url}: {_why(error, resource)}") from error
    except CONNECTION_ERRORS as error:
        said = str(error) or type(error).__name__
        raise ListingError(
            f"the API server {server.url} cannot be reached ({said}): see whether it runs, or name another one with "
            "--kubeconfig and --context"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ListingError(
            f"what answers at {server.url} is no API server: name one with --kubeconfig and --context"
        ) from error


async def _read(server: ApiServer, resource: Resource, namespace: str | None, limit: int | None) -> list[Raw]:
    # Of owners no more is needed, as the recommender follows them.
    accept = METADATA_LIST if resource in (*BUILT_IN_OWNERS, *CUSTOM_OWNERS) else JSON
    found: list[Raw] = []
    async for page in pages(server, resource.path(namespace), {}, limit, accept):
        # An empty list says null; what has no items at all is no list.
        found += [_named(raw, resource) for raw in page["items"] or ()]
    return found


def _named(raw: Raw, resource: Resource) -> Raw:
    """With its kind, which objects in lists do not say, and without the bookkeeping, often its larger part."""
    metadata = {name: value for name, value in raw["metadata"].items() if name != "managedFields"}
    return {**raw, "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def _why(error: ApiError, resource: Resource) -> str:
    if error.status == 401:
        return "it does not take the credentials: log in again, or name others with --kubeconfig and --context"
    if error.status == 403:
        return f"{error.message} (grant the verb list on {resource})"
    if error.status == 404:
        return "it has no such kind: install the definitions that `vllm-rightsizer crds` prints"
    return f"{error}; try again later"
