"""Pages over real HTTP: what is believed, and the reason where it is not."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from loop_clock import later
from synthetic import BLOCK_BYTES, BLOCK_TOKENS, KEY, SyntheticEngine, served

from recommender import scraping
from recommender.discovery import Pod
from recommender.exposition import parse_page
from recommender.histograms import unpack
from recommender.samples import PodSample, RefusedSampleError
from recommender.scraping import Scrape, Scraper
from vllm_plugin import names


def pod(port: int, host: str = "127.0.0.1", name: str = "llama-0") -> Pod:
    return Pod(KEY, name, "u", "f" * 16, (host, port), 0.0, True, False, None, {})


DEADLINE = 60.0
"""Seconds that no test waits for."""


async def scrape(*pods: Pod) -> list[Scrape]:
    async with Scraper(DEADLINE) as scraper:
        return await scraper.scrape(pods)


async def scrape_until(late: Callable[[], bool], *pods: Pod) -> list[Scrape]:
    """The deadline is over for whoever has not answered once `late` holds, or begins only then."""
    looking = asyncio.create_task(scrape(*pods))
    async with asyncio.timeout(DEADLINE):
        while not late():
            await asyncio.sleep(0.001)
    while not looking.done():
        later(DEADLINE)
        await asyncio.sleep(0.01)
    return await looking


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[PodSample]:
    """The pages that were read."""
    samples: list[PodSample] = []

    def parse(page: str, uid: str) -> PodSample:
        samples.append(parse_page(page, uid))
        return samples[-1]

    monkeypatch.setattr(scraping, "parse_page", parse)
    return samples


def honest() -> SyntheticEngine:
    engine = SyntheticEngine(active_blocks=40, demand_blocks=60, preemptions=2, admissions_blocked=3)
    engine.look_up([0, 10, 500, None], requests=9)
    return engine


async def test_an_honest_page() -> None:
    engine = honest()
    with served(lambda: engine.page().encode()) as port:
        (found,) = await scrape(pod(port))
    assert found.fault is None
    assert found.sample is not None
    (one,) = found.sample.engines
    assert found.sample.plugin_version == "0.1.0"
    assert one.facts.vllm_version == "0.32.0"
    assert one.facts.blocks == 4096
    assert one.facts.block_tokens == BLOCK_TOKENS
    assert one.facts.ranks[0].outside_pool_bytes == 18 << 30
    assert one.demand_peak_bytes == 60 * BLOCK_BYTES
    assert one.counters.requests == 9
    assert one.counters.preemptions == 2
    assert unpack(one.counters.reuse)[-2:] == (3, 4)


async def test_every_pod_is_looked_at_within_the_deadline_of_the_slowest(read: list[PodSample]) -> None:
    engine = honest()
    scraped = threading.Event()

    def slow() -> bytes:
        scraped.wait(2 * DEADLINE)
        return b""

    with served(slow) as slow_port, served(lambda: engine.page().encode()) as port:
        try:
            late, found = await scrape_until(lambda: bool(read), pod(slow_port), pod(port))
        finally:
            scraped.set()
    assert found.sample is not None
    assert late.sample is None
    assert "within 60 s" in (late.fault or "")


async def test_where_nobody_answers_none_is_waited_for() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        answers = await scrape(pod(nobody.getsockname()[1]), pod(1, host="no such host"))
    assert [answer.sample for answer in answers] == [None, None]
    assert all("no page from" in (answer.fault or "") for answer in answers)


async def test_pods_that_hang_hold_up_nobody(monkeypatch: pytest.MonkeyPatch, read: list[PodSample]) -> None:
    monkeypatch.setattr(scraping, "PATIENCE_SECONDS", 0.02)
    engine = honest()
    with socket.socket() as silent, served(lambda: engine.page().encode()) as port:
        silent.bind(("127.0.0.1", 0))
        silent.listen(2 * scraping.CONCURRENT_SCRAPES)
        hanging = [pod(silent.getsockname()[1], name=str(one)) for one in range(scraping.CONCURRENT_SCRAPES)]
        *hung, answered = await scrape_until(lambda: bool(read), *hanging, pod(port))
    assert answered.sample is not None
    assert all(one.sample is None and answered.at < one.at for one in hung)


async def test_a_page_that_nobody_thought_of_ends_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(text: str, uid: str) -> PodSample:
        if uid == "odd":
            raise AttributeError("of nothing")
        return parse_page(text)

    monkeypatch.setattr(scraping, "parse_page", failing)
    engine = honest()
    with served(lambda: engine.page().encode()) as port:
        odd, other = await scrape(replace(pod(port), uid="odd"), pod(port))
    assert odd.fault == f"the page of 127.0.0.1:{port} cannot be read: AttributeError: of nothing"
    assert other.sample is not None


def edited(old: str, new: str, count: int = 1) -> str:
    page = honest().page()
    assert old in page
    return page.replace(old, new, count)


CAPACITY = f'{names.KV_CACHE_CAPACITY_BYTES}{{engine="0",rank="0"}} {4096 * BLOCK_BYTES}'
REQUESTS = f'{names.REQUESTS}{{engine="0"}} 9'
HITS = f'{names.HIT_TOKENS}{{engine="0"}} {3 * BLOCK_TOKENS}'
BUCKET = f"{names.KV_REUSE_DISTANCE_BYTES}_bucket"


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("", "none of the plugin's metrics"),
        ("<html><body>502 Bad Gateway</body></html>", "none of the plugin's metrics"),
        ("# only\n# comments\n", "none of the plugin's metrics"),
        (f"{names.KV_CACHE_CAPACITY_BYTES}{{engine=", "no Prometheus text"),
        (edited(REQUESTS, REQUESTS.replace(" 9", " nine")), "no Prometheus text"),
        (edited(REQUESTS, REQUESTS.replace(" 9", " NaN")), "requests_total is nan"),
        (edited(REQUESTS, REQUESTS.replace(" 9", " -1")), "requests_total is -1"),
        (edited(REQUESTS, REQUESTS.replace(" 9", " +Inf")), "requests_total is inf"),
        (edited(REQUESTS, REQUESTS.replace(" 9", " 1e30")), "more than can have been counted"),
        (edited(REQUESTS, REQUESTS + "\n" + REQUESTS), "stands twice"),
        (edited(REQUESTS, ""), "the page has no vllm_rightsizer_requests_total"),
        (edited(CAPACITY, CAPACITY.rsplit(" ", 1)[0] + " 1e18"), "kv_cache_capacity_bytes is 1e+18, which cannot be"),
        (edited(CAPACITY, CAPACITY.rsplit(" ", 1)[0] + " 0"), "kv_cache_capacity_bytes is 0, which cannot be"),
        (edited(CAPACITY, ""), "vLLM is still starting"),
        (
            edited(f'{names.KV_CACHE_BLOCK_TOKENS}{{engine="0"}} 16', f'{names.KV_CACHE_BLOCK_TOKENS}{{engine="0"}} 0'),
            "kv_cache_block_tokens is 0",
        ),
        (
            edited(f"{names.KV_CACHE_ACTIVE_BYTES}", f'{names.KV_CACHE_ACTIVE_BYTES}{{engine="0"}} 99e9\n# '),
            "kv_cache_active_bytes is 9.9e+10",
        ),
        (edited(HITS, HITS.rsplit(" ", 1)[0] + " 1000000"), "more than the"),
        (edited(f'{BUCKET}{{engine="0",le="+Inf"}} 4', f'{BUCKET}{{engine="0",le="+Inf"}} 1'), "is not cumulative"),
        (edited('le="1048576.0"', 'le="1000000.0"'), "unknown bound '1000000.0'"),
        (edited('le="1048576.0"', 'le="wide"'), "unknown bound 'wide'"),
        (edited(f'{BUCKET}{{engine="0",le="1048576.0"}}', f"# {BUCKET}"), "145 buckets instead of 146"),
        (honest().page().replace(BUCKET, "something_else"), "the page has no vllm_rightsizer_kv_reuse_distance_bytes"),
    ],
)
def test_nonsense_is_refused_with_its_reason(page: str, reason: str) -> None:
    with pytest.raises(RefusedSampleError, match=reason.replace("+", r"\+")):
        parse_page(page)


def hook(name: str, active: int) -> str:
    return f'{names.HOOKS_ACTIVE}{{{names.LABEL_HOOK}="{name}"}} {active}\n'


def test_hooks_are_kept_by_name() -> None:
    found = parse_page(honest().page() + hook("lookup", 1) + hook("weights", 0))
    assert found.hooks == {"lookup": True, "weights": False}


@pytest.mark.parametrize("name", ["lookup", "admission", "free", "kv_cache_manager"])
def test_figures_of_a_hook_that_is_off_are_not_believed(name: str) -> None:
    """They stand still from then on: a quiet service, to whoever does not know."""
    with pytest.raises(RefusedSampleError, match=f"hook {name} is off"):
        parse_page(honest().page() + hook(name, 0))


@pytest.mark.parametrize("page", [honest().page(), honest().page().replace(f"{BUCKET}{{", "something_else{")])
def test_a_model_whose_kv_groups_are_not_modelled_is_said_to_be_one(page: str) -> None:
    with pytest.raises(RefusedSampleError, match=r"KV groups that are neither.*not modelled yet.*today's pool stays"):
        parse_page(page + hook("reuse", 0))


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"\xff\xfe\x00binary", 200, "is no text"),
        (b"x" * (5 << 20), 200, "longer than 4 MiB"),
        (b"not here", 404, "HTTP 404"),
        (b"", 500, "HTTP 500"),
        (b"moved", 302, "HTTP 302"),
    ],
)
async def test_answers_that_are_no_page(body: bytes, status: int, reason: str) -> None:
    with served(lambda: body, status) as port:
        (found,) = await scrape(pod(port))
    assert found.sample is None
    assert reason in (found.fault or "")


async def test_a_server_that_speaks_no_http() -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        (found,) = await scrape(pod(server.sockets[0].getsockname()[1]))
    assert found.sample is None
    assert "no page from" in (found.fault or "")


def test_other_metrics_on_the_page_are_neither_read_nor_judged() -> None:
    page = 'vllm:num_requests_running{engine="0"} NaN\nprocess_nonsense -5\n' + honest().page()
    assert parse_page(page).engines[0].counters.requests == 9


def test_bounds_are_known_however_they_are_written() -> None:
    first, second = names.REUSE_BUCKET_BOUNDS[:2]
    page = edited(f'le="{first!r}"', 'le="1.048576e+06"').replace(f'le="{second!r}"', f'le="{second:.12g}"')
    assert unpack(parse_page(page).engines[0].counters.reuse)[-1] == 4


def test_ranks_and_engines() -> None:
    """Two ranks of one engine: blocks are the first rank's, weights and memory of both count."""
    page = honest().page()
    second = "\n".join(
        line.replace('rank="0"', 'rank="1"').replace(str(16 << 30), str(17 << 30))
        for line in page.splitlines()
        if 'rank="0"' in line
    )
    (engine,) = parse_page(page + second + "\n").engines
    assert [rank.weights_bytes >> 30 for rank in engine.facts.ranks] == [16, 17]
    other = page.replace('engine="0"', 'engine="1"').replace(
        f'{names.REQUESTS}{{engine="1"}} 9', f'{names.REQUESTS}{{engine="1"}} 5'
    )
    engines = parse_page(page + "\n".join(line for line in other.splitlines() if 'engine="1"' in line) + "\n").engines
    assert [(engine.engine, engine.counters.requests) for engine in engines] == [("0", 9), ("1", 5)]
