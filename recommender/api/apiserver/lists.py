"""Collections of the API server, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from recommender.api.apiserver.connection import JSON, ApiServer, Raw


async def pages(
    server: ApiServer, path: str, query: Mapping[str, str], limit: int | None, accept: str = JSON
) -> AsyncIterator[Raw]:
    """The collection at `path`: raw lists of at most `limit` objects each, or one of all; all are of one moment.

    Without a resourceVersion the answer is the newest, so it never goes back. Raises as `ApiServer.request`: `ApiError`
    with status 410 where the pages outlived their version.
    """
    asked = {**query, "limit": str(limit)} if limit is not None else dict(query)
    while True:
        page = await server.request("GET", path, query=asked, accept=accept)
        yield page
        token = page["metadata"].get("continue")
        if not token:
            return
        asked["continue"] = token
