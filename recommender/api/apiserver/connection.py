"""One connection pool to the API server, with the credentials that Kubernetes gives."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import load_incluster_config, load_kube_config

logger = logging.getLogger(__name__)

Raw = dict[str, Any]

CONNECTION_ERRORS = (aiohttp.ClientError, OSError, TimeoutError)
"""What a request raises where no answer came, or only a part of one."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
METADATA = f"{JSON};as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""Answers that hold of an object, and of each object of a list, the metadata alone."""

_CONNECT_SECONDS = 5.0
_REQUEST_SECONDS = 60.0
_RELOAD_SECONDS = 10.0
"""Credentials are read again at most this often."""
_LONGEST_WAIT_SECONDS = 60.0
"""Whatever a server or a proxy asks for."""


Permission = Callable[[], float]
"""For how many seconds from now on requests may be under way; 0 or less: none may be sent."""


class NotPermittedError(aiohttp.ClientError):
    """The request was not sent: whoever made the connection does not permit it at this moment."""


class CredentialsError(ValueError):
    """There is no way to the API server; the message says what was looked at and what to do."""


class ApiError(Exception):
    """The API server's refusal: the HTTP status, and `reason`, `message` and the reasons of the causes of its Status
    object."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after_seconds: float | None = None,
        causes: Collection[str] = (),
    ) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.causes = causes


class ApiServer:
    """Raw requests to one API server. Made by `connect`; `close` ends it.

    Credentials that end (tokens, what exec plugins gave, a new CA) are read again where the server refuses them.
    """

    def __init__(
        self,
        kubeconfig: Path | None,
        context: str | None,
        configuration: Configuration,
        permitted: Permission | None = None,
    ) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._permitted = permitted
        self._use(configuration)
        self._loaded_at = time.monotonic()

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None = None, context: str | None = None, permitted: Permission | None = None
    ) -> ApiServer:
        """By the file `kubeconfig` and, of its contexts, `context` or else the current one; or without a file by the
        service account of the pod. Raises `CredentialsError`.

        Where `permitted` is given, every request asks it, the last time when its bytes are about to leave, and is given
        up when that time is over.
        """
        return cls(kubeconfig, context, await _configuration(kubeconfig, context), permitted)

    @property
    def url(self) -> str:
        return str(self._configuration.host)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Raw:
        """The object that the server answers with. Raises `ApiError`, or one of `CONNECTION_ERRORS`, of which
        `NotPermittedError` is one."""
        seconds = _REQUEST_SECONDS if self._permitted is None else min(_REQUEST_SECONDS, self._left(self._permitted))
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS, ceil_threshold=_REQUEST_SECONDS)
        async with self._opened(method, path, query, body, content_type, accept, timeout) as response:
            answer: Raw = json.loads(await response.read())
            return answer

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], accept: str, silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch, until the server ends it. Raises as `request`, and TimeoutError after a silence."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=silence_seconds)
        async with self._opened("GET", path, query, None, JSON, accept, timeout) as response:
            yield _lines(response)

    async def close(self) -> None:
        await self._transport.close()

    @contextlib.asynccontextmanager
    async def _opened(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        accept: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self.url.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": "vllm-rightsizer"}
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        try:
            answer = await self._transport.request(method, url, headers, body, _request_timeout=timeout)
        except (aiohttp.ClientConnectorCertificateError, ssl.SSLError):
            await self._reload()
            raise
        async with answer.response as response:
            if response.status >= 400:
                if response.status == 401:
                    await self._reload()
                raise _refusal(response, await response.read())
            yield response

    async def _reload(self) -> None:
        """Read the credentials again. The old connections end, and their watches go on with new ones."""
        if time.monotonic() - self._loaded_at < _RELOAD_SECONDS:
            return
        self._loaded_at = time.monotonic()
        try:
            configuration = await _configuration(self._kubeconfig, self._context)
        except CredentialsError as error:
            logger.warning("the API server refuses the credentials, and there are no others: %s", error)
            return
        old = self._transport
        self._use(configuration)
        await old.close()

    @staticmethod
    def _left(permitted: Permission) -> float:
        left = permitted()
        if left <= 0:
            raise NotPermittedError("it is not permitted at this moment")
        return left

    def _guard(self, permitted: Permission) -> aiohttp.TraceConfig:
        """Asks once more before anything of a request leaves: meanwhile a connection may have been waited for, or the
        whole process may have stood still."""

        async def ask(*_: object) -> None:
            self._left(permitted)

        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(ask)
        trace.on_request_chunk_sent.append(ask)
        return trace

    def _use(self, configuration: Configuration) -> None:
        if self._permitted is not None:
            configuration.trace_configs = [self._guard(self._permitted)]
        self._configuration = configuration
        self._transport = RESTClientObject(configuration)


async def _configuration(kubeconfig: Path | None, context: str | None) -> Configuration:
    configuration = Configuration()
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)
        else:
            files = [file for part in str(kubeconfig).split(os.pathsep) if (file := Path(part).expanduser()).exists()]
            # The package would go on, and say that it misses a context, or how it does not work.
            if not files:
                raise FileNotFoundError("there is no such file")
            if not any(file.read_bytes().strip() for file in files):
                raise ValueError("it is empty")
            await load_kube_config(
                config_file=str(kubeconfig),
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
    except Exception as error:
        # Of a file that is no kubeconfig the package says it by whatever its parsers and its own code raise.
        said = " ".join(str(error).split()) or type(error).__name__
        if kubeconfig is None:
            raise CredentialsError(
                f"no API server is known ({said}): run in a pod with a service account, or give a --kubeconfig"
            ) from error
        raise CredentialsError(f"{kubeconfig} cannot be used ({said}): give a kubeconfig that works") from error
    return configuration


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    try:
        status = json.loads(body)
    except ValueError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        # A proxy, or the API server before it can make objects: plain text.
        status = {"message": body[:200].decode(errors="replace").strip()}
    reason = str(status.get("reason") or response.reason)
    causes = [str(cause.get("reason")) for cause in (status.get("details") or {}).get("causes") or ()]
    retry_after = _retry_after(response.headers.get("Retry-After", ""))
    return ApiError(response.status, reason, str(status.get("message")), retry_after, causes)


def _retry_after(text: str) -> float | None:
    """Seconds; the header's other form, a date, comes from no API server."""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, _LONGEST_WAIT_SECONDS) if seconds >= 0 else None


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines; what a broken connection left of one is dropped."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line
