"""Asking a PromQL API over HTTP: few questions at a time, none for longer than the deadline."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from recommender.promql.answers import AnswerError, AnswerReader, PromSeries
from recommender.promql.settings import PrometheusSettings, PrometheusSettingsError, secret_headers
from vllm_plugin.names import PREFIX

DEADLINE_SECONDS = 120.0
"""For one answer, to its last byte: Prometheus' own limit. Answers about 10,000 pods take seconds."""
CONNECT_SECONDS = 5.0
CONCURRENT_QUERIES = 2
LARGEST_ANSWER_BYTES = 1 << 30
"""All pods' samples of one counter and one half hour are some 20 MB for 10,000 pods. It is read in pieces."""
_LONGEST_COMPLAINT = 4096

_ADVICE: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: ": is a tenant's header or a token missing?",
    HTTPStatus.FORBIDDEN: ": may this token ask there?",
    HTTPStatus.NOT_FOUND: ": is this the address under which /api/v1/query lies?",
}

_NAME = PREFIX + "recommender_"


class QueryError(Exception):
    """No answer, or none that can be believed; the message says from whom and why."""


class PromqlTelemetry:
    """What the recommender says of its questions."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queries = Counter(
            _NAME + "queries",
            "Queries of the Prometheus API by outcome: ok, partial (with warnings), failed.",
            ["outcome"],
            registry=registry,
        )
        self.query_seconds = Histogram(
            _NAME + "query_seconds",
            "Time of one query of the Prometheus API, with reading the answer.",
            buckets=(0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=registry,
        )
        self.partial_intervals = Counter(
            _NAME + "partial_intervals",
            "Intervals that were taken although the answers were partial for too long.",
            registry=registry,
        )
        self.filled = Gauge(
            _NAME + "filled_timestamp_seconds",
            "End of the newest interval taken from the Prometheus API, by the interval's length.",
            ["seconds"],
            registry=registry,
        )
        self.recounted_pods = Counter(
            _NAME + "recounted_pods",
            "Pods of which every sample of an interval was read: they began, or started anew, in it.",
            registry=registry,
        )
        self.refused_pods = Gauge(
            _NAME + "refused_pods",
            "Pods whose series do not count in the newest interval; the log says why.",
            registry=registry,
        )


class PrometheusClient:
    """Asks, for the length of an `async with`."""

    def __init__(self, settings: PrometheusSettings, telemetry: PromqlTelemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry
        self._url = settings.url.rstrip("/")
        self._gate = asyncio.Semaphore(CONCURRENT_QUERIES)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONCURRENT_QUERIES, ssl=self._settings.tls_context() or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", **dict(self._settings.headers)},
            timeout=aiohttp.ClientTimeout(total=DEADLINE_SECONDS, sock_connect=CONNECT_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def query(self, expression: str, at: float, take: Callable[[PromSeries], None]) -> tuple[str, ...]:
        """Give each series of an instant query to `take`; the warnings, because of which it may not be all there is.

        Raises `QueryError`: then `take` may have been given some.
        """
        reader = AnswerReader()

        def feed(piece: bytes) -> None:
            for series in reader.feed(piece):
                take(series)

        asked = {"query": expression, "time": f"{at:.3f}"}
        await self._asked("/api/v1/query", asked, None, feed, reader.finish)
        self._count("partial" if reader.warnings else "ok")
        return reader.warnings

    async def label_values(self, label: str, selector: str, start: float, end: float) -> list[str]:
        """What a label of the series of `selector` was between two moments. Raises `QueryError`."""
        body = bytearray()
        found: list[str] = []

        def read() -> None:
            try:
                answer = json.loads(body)
                if answer["status"] != "success":
                    raise AnswerError(f"the question was refused: {answer.get('error')}")
                found.extend(str(value) for value in answer["data"] or ())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise AnswerError(f"the answer is not as it should be: {error}: is this a PromQL API?") from error

        parameters = {"match[]": selector, "start": f"{start:.3f}", "end": f"{end:.3f}"}
        await self._asked(f"/api/v1/label/{label}/values", None, parameters, body.extend, read)
        self._count("ok")
        return found

    async def _asked(
        self,
        path: str,
        data: dict[str, str] | None,
        params: dict[str, str] | None,
        feed: Callable[[bytes], object],
        read: Callable[[], None],
    ) -> None:
        """By POST where there is `data`: a query may be longer than an address can be."""
        if self._session is None:
            raise RuntimeError("a client is open only inside `async with`")
        method = "GET" if data is None else "POST"
        async with self._gate:
            began = time.monotonic()
            try:
                # Nobody sends our secrets elsewhere.
                async with self._session.request(
                    method, self._url + path, headers=self._secrets(), allow_redirects=False, data=data, params=params
                ) as response:
                    if response.status != HTTPStatus.OK:
                        raise QueryError(await self._refusal(response))
                    size = 0
                    async for piece in response.content.iter_any():
                        size += len(piece)
                        if size > LARGEST_ANSWER_BYTES:
                            raise QueryError(
                                f"an answer of {self._url} is longer than {LARGEST_ANSWER_BYTES >> 20} MiB"
                            )
                        feed(piece)
                read()
            except QueryError:
                self._count("failed")
                raise
            except AnswerError as error:
                self._count("failed")
                raise QueryError(f"{self._url}: {error}") from error
            except TimeoutError as error:
                self._count("failed")
                raise QueryError(f"no answer from {self._url} within {DEADLINE_SECONDS:g} s") from error
            except (aiohttp.ClientError, OSError) as error:
                self._count("failed")
                raise QueryError(f"no answer from {self._url}: {error or type(error).__name__}") from error
            finally:
                self._telemetry.query_seconds.observe(time.monotonic() - began)

    def _secrets(self) -> dict[str, str]:
        """Headers of what is read anew for each query."""
        found: dict[str, str] = {}
        if (file := self._settings.headers_file) is not None:
            try:
                found |= secret_headers(file)
            except PrometheusSettingsError as error:
                raise QueryError(str(error)) from error
        if (file := self._settings.token_file) is not None:
            try:
                found["Authorization"] = f"Bearer {file.read_text().strip()}"
            except (OSError, UnicodeDecodeError) as error:
                raise QueryError(f"the token file {file} cannot be read: {error}") from error
        return found

    async def _refusal(self, response: aiohttp.ClientResponse) -> str:
        said = (await response.content.read(_LONGEST_COMPLAINT)).decode(errors="replace")
        try:
            said = str(json.loads(said)["error"])
        except (ValueError, KeyError, TypeError):
            said = " ".join(said.split())[:200]
        advice = _ADVICE.get(response.status, "")
        return f"{self._url} answers with HTTP {response.status} ({said}){advice}"

    def _count(self, outcome: str) -> None:
        self._telemetry.queries.labels(outcome).inc()
