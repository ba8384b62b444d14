"""Fetching the plugins' pages: each pod at its own time of a round, few at once, none for longer than the deadline."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp

from recommender.discovery import Pod
from recommender.exposition import parse_page
from recommender.samples import NothingToSizeError, PodSample, RefusedSampleError
from recommender.vllm_pages import VLLMSample, parse_vllm_page
from vllm_plugin.names import COMPACT_TYPE

DEADLINE_SECONDS = 5.0
"""For one page, from connecting to the last byte. A page takes milliseconds: a pod that needs longer is in trouble."""

_LONGEST_FAULT = 1000
"""Characters: it goes into a condition, and may quote the page."""

_NO_ANSWER = (TimeoutError, aiohttp.ClientError, OSError)

LARGEST_PAGE_BYTES = 4 << 20
CONCURRENT_SCRAPES = 64
PATIENCE_SECONDS = 0.5
"""Whoever has not answered by then no longer counts among them: a zone that cannot be reached must not hold up the rest
of the fleet. Some 700 connections at most are open at a time."""
SPREAD_SECONDS_A_POD = 0.001
LONGEST_SPREAD_SECONDS = 10.0
"""Over so long a fleet's looks are spread: neither the network nor this process meets them all at one moment. Each pod
has its own place in it, so that it is looked at evenly from round to round."""


@dataclass(frozen=True)
class Scrape:
    """The outcome for one pod: a sample, or why there is none. `at` is in seconds since the epoch."""

    pod: Pod
    at: float
    seconds: float
    sample: PodSample | None = None
    fault: str | None = None
    aside: str | None = None
    """The reason, in a word, where the page is as it should be and there is nothing to size."""


@dataclass(frozen=True)
class VLLMScrape:
    """What a pod's vLLM shows of itself. `at` is in seconds since the epoch."""

    pod: Pod
    at: float
    engines: tuple[VLLMSample, ...]


class Scraper:
    """Looks at pods, for the length of an `async with`."""

    def __init__(self, deadline_seconds: float = DEADLINE_SECONDS) -> None:
        self._deadline_seconds = deadline_seconds
        self._gate = asyncio.Semaphore(CONCURRENT_SCRAPES)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # A pod is looked at twice a minute: kept connections would be thousands, each idle.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            # Of a compressed page nobody knows how long it is.
            auto_decompress=False,
            headers={"Accept": f"{COMPACT_TYPE}, text/plain; version=0.0.4; q=0.5", "Accept-Encoding": "identity"},
            # The deadline is that of the whole look, see below.
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    def longest(self, pods: int) -> float:
        """Seconds until so many pods have been looked at where none of them answers."""
        waiting = math.ceil(pods / CONCURRENT_SCRAPES) * PATIENCE_SECONDS
        return _spread(pods) + waiting + self._deadline_seconds

    async def scrape(self, pods: Sequence[Pod]) -> list[Scrape]:
        """Look at every pod that has an address."""
        known = [(pod, pod.address) for pod in pods if pod.address]
        spread = _spread(len(known))
        return list(await asyncio.gather(*(self._scrape(pod, address, spread) for pod, address in known)))

    async def look_at_vllm(self, pods: Sequence[Pod]) -> list[VLLMScrape]:
        """vLLM's own page of every pod that has one; those that show nothing are left out."""
        known = [(pod, pod.vllm_address) for pod in pods if pod.vllm_address]
        spread = _spread(len(known))
        looks = await asyncio.gather(*(self._look_at_vllm(pod, address, spread) for pod, address in known))
        return [look for look in looks if look is not None]

    @contextlib.asynccontextmanager
    async def _turn(self, pod: Pod, spread: float) -> AsyncIterator[None]:
        """A place among the few that are looked at, for the length of the block or of our patience; `pod` takes it at
        its own time of the next `spread` seconds."""
        await asyncio.sleep(_share(pod) * spread)
        await self._gate.acquire()
        place = contextlib.ExitStack()
        place.callback(self._gate.release)
        patience = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, place.close)
        try:
            yield
        finally:
            patience.cancel()
            place.close()

    async def _look_at_vllm(self, pod: Pod, address: tuple[str, int], spread: float) -> VLLMScrape | None:
        async with self._turn(pod, spread):
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    page = await self._page(*address)
                return VLLMScrape(pod, time.time(), parse_vllm_page(page))
            except Exception:
                # What matters is why the plugin does not answer, and that is said.
                return None

    async def _scrape(self, pod: Pod, address: tuple[str, int], spread: float) -> Scrape:
        async with self._turn(pod, spread):
            began = time.monotonic()
            sample: PodSample | None = None
            fault: str | None = None
            aside: str | None = None
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    page = await self._page(*address)
                sample = parse_page(page, pod.uid)
            except NothingToSizeError as error:
                fault, aside = str(error), error.reason
            except RefusedSampleError as error:
                fault = str(error)
            except TimeoutError:
                fault = f"no page from {_shown(address)} within {self._deadline_seconds:g} s"
            except _NO_ANSWER as error:
                fault = f"no page from {_shown(address)}: {error or type(error).__name__}"
            except Exception as error:
                # Whatever one pod answers, the others' round goes on.
                fault = f"the page of {_shown(address)} cannot be read: {type(error).__name__}: {error}"
            fault = fault and fault[:_LONGEST_FAULT]
            return Scrape(pod, time.time(), time.monotonic() - began, sample, fault, aside)

    async def _page(self, host: str, port: int) -> str:
        if self._session is None:
            raise RuntimeError("a scraper is open only inside `async with`")
        authority = f"[{host}]" if ":" in host else host
        body = bytearray()
        # A pod has no business sending us elsewhere.
        async with self._session.get(f"http://{authority}:{port}/metrics", allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                raise RefusedSampleError(f"the plugin's port answers with HTTP {response.status}")
            if response.content_length is None and not response.headers.get("Transfer-Encoding"):
                # Cut off after a line, or within a number, it would look whole.
                raise RefusedSampleError("the page does not say how long it is")
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > LARGEST_PAGE_BYTES:
                    raise RefusedSampleError(f"the page is longer than {LARGEST_PAGE_BYTES >> 20} MiB")
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise RefusedSampleError(f"the page is no text: {error}") from error


def _spread(pods: int) -> float:
    """Seconds over which so many looks are spread."""
    return min(pods * SPREAD_SECONDS_A_POD, LONGEST_SPREAD_SECONDS)


def _share(pod: Pod) -> float:
    """Where in that time the pod has its place, 0 to 1; always the same."""
    return zlib.crc32("/".join(pod.identity).encode()) / (1 << 32)


def _shown(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
