"""Pods in trouble, over real HTTP: pages that stop in the middle, trickle, or lead elsewhere; and a fleet's pace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from synthetic import SyntheticEngine
from test_scraping import honest, pod, scrape, scrape_until

from recommender import scraping
from recommender.scraping import Scraper

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[int]:
    """A server that reads a request and says whatever it likes; its port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_page_that_is_cut_anywhere_is_never_taken_for_a_whole_one() -> None:
    page = honest().page().encode()
    cuts = iter([*range(1, len(page), len(page) // 40), len(page) - 1])

    async def cut(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(page) + page[: next(cuts)])

    async with answering(cut) as port:
        found = [answer for _ in range(40) for answer in await scrape(pod(port))]
    assert all(one.sample is None for one in found)
    assert {(one.fault or "").partition(":")[0] for one in found} == {"no page from 127.0.0.1"}


async def test_a_page_whose_end_nobody_can_tell() -> None:
    """Without a length, and not in chunks, a connection that breaks looks like the end of the page."""
    page = honest().page().encode()

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Connection: close\r\n\r\n" + page)

    async def chunked(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(page) + page + b"\r\n0\r\n\r\n")

    async with answering(endless) as port:
        (found,) = await scrape(pod(port))
    assert (found.sample, found.fault) == (None, "the page does not say how long it is")
    async with answering(chunked) as port:
        (found,) = await scrape(pod(port))
    assert found.sample is not None


async def test_a_byte_at_a_time_is_waited_for_no_longer_than_for_nothing() -> None:
    page = honest().page().encode()
    sent = [0]

    async def trickling(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(page))
        for byte in page:
            writer.write(bytes([byte]))
            await writer.drain()
            sent[0] += 1
            await asyncio.sleep(0.01)

    async with answering(trickling) as port:
        (found,) = await scrape_until(lambda: sent[0] > 10, pod(port))
    assert found.sample is None
    assert "within 60 s" in (found.fault or "")
    assert sent[0] < len(page)


async def test_what_is_quoted_of_a_page_has_a_bound() -> None:
    page = honest().page().encode() + b"vllm_rightsizer_" + b"x" * 100_000 + b" NaN\n"

    async def absurd(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(page) + page)

    async with answering(absurd) as port:
        (found,) = await scrape(pod(port))
    assert found.fault is not None
    assert found.fault.startswith("vllm_rightsizer_xxx")
    assert len(found.fault) <= 1000


async def test_a_pod_leads_nobody_elsewhere() -> None:
    """Whatever it names is not asked, be it the cloud's own metadata or another pod."""
    engine, asked = SyntheticEngine(), [0]

    async def other(writer: asyncio.StreamWriter) -> None:
        asked[0] += 1
        page = engine.page().encode()
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(page) + page)

    async with answering(other) as elsewhere:

        async def leading(writer: asyncio.StreamWriter) -> None:
            writer.write(
                b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n"
                b"Location: http://127.0.0.1:%d/metrics\r\n\r\n" % elsewhere
            )

        async with answering(leading) as port:
            (found,) = await scrape(pod(port))
    assert (found.sample, asked) == (None, [0])
    assert "HTTP 307" in (found.fault or "")


async def test_a_fleet_is_looked_at_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pod at its own time of the spread, the same in each round; few pods wait for nothing."""
    page = honest().page().encode()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(page) + page)

    waits: list[float] = []
    sleep = asyncio.sleep

    async def waited(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr(scraping.asyncio, "sleep", waited)
    async with answering(answer) as port, Scraper() as scraper:
        pods = [pod(port, name=f"llama-{number}") for number in range(30)]
        first = await scraper.scrape(pods)
        before, waits[:] = list(waits), []
        await scraper.scrape(pods)
    assert [one.pod.name for one in first if one.sample is not None] == [one.name for one in pods]
    assert waits == before
    spread = 30 * scraping.SPREAD_SECONDS_A_POD
    assert len(set(waits)) == 30
    assert 0 <= min(waits) < 0.2 * spread
    assert 0.8 * spread < max(waits) < spread
    assert scraper.longest(30) == spread + scraping.PATIENCE_SECONDS + scraping.DEADLINE_SECONDS
    assert scraping._spread(10**6) == scraping.LONGEST_SPREAD_SECONDS
