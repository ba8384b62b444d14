"""`vllm-rightsizer crds --apply`: what Helm leaves out, an API server with the definitions of this version."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from recommender.api.apiserver.connection import CONNECTION_ERRORS, ApiError, ApiServer, CredentialsError, Raw
from recommender.api.crds import definitions
from recommender.api.logs import log_to_stderr
from vllm_rightsizer.errors import UserError
from vllm_rightsizer.kubeconfigs import access

logger = logging.getLogger(__name__)

_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_APPLY = "application/apply-patch+yaml"
_QUERY = {"fieldManager": "vllm-rightsizer-crds", "force": "true"}
"""Forced: Helm made them, or kubectl, and nobody else is to change them."""
_SERVED_SECONDS = 60.0
_LOOK_SECONDS = 0.2


def apply_definitions(kubeconfig: Path | None, context: str | None) -> None:
    """Until the API server serves all of them. Raises `UserError` where it does not take one."""
    way = access(kubeconfig, context)
    log_to_stderr()
    try:
        asyncio.run(_apply(way.kubeconfig, way.context))
    except CredentialsError as error:
        raise UserError(str(error)) from error


async def _apply(kubeconfig: Path | None, context: str | None) -> None:
    server = await ApiServer.connect(kubeconfig, context)
    try:
        for definition in definitions():
            await _one(server, definition)
    finally:
        await server.close()


async def _one(server: ApiServer, definition: Raw) -> None:
    name = definition["metadata"]["name"]
    path = f"{_PATH}/{name}"
    deadline = time.monotonic() + _SERVED_SECONDS
    try:
        found = await server.request("PATCH", path, query=_QUERY, body=definition, content_type=_APPLY)
        while (trouble := _trouble(found)) is not None:
            if time.monotonic() > deadline:
                raise UserError(f"{name} is not served after {_SERVED_SECONDS:.0f} s: {trouble}")
            await asyncio.sleep(_LOOK_SECONDS)
            found = await server.request("GET", path)
    except ApiError as error:
        raise UserError(f"the API server does not take {name}: {error}") from error
    except CONNECTION_ERRORS as error:
        raise UserError(f"the API server at {server.url} cannot be reached: {error}") from error
    logger.info("%s is up to date", name)


def _trouble(definition: Raw) -> str | None:
    """Why it is not served; None where it is."""
    conditions = {one["type"]: one for one in (definition.get("status") or {}).get("conditions") or ()}
    for type_ in ("NamesAccepted", "Established"):
        found = conditions.get(type_, {})
        if found.get("status") != "True":
            return str(found.get("message") or f"not {type_} yet")
    return None
