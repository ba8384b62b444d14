"""Between two terms nothing of the first is left; and what cannot be begun is said, and left to others."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from synthetic import SyntheticEngine, cluster_objects, pod_object, policy_object, served
from test_service import POLICY, eventually, recommendation

from recommender import rounds, service
from recommender.api.object_store import FileObjectStore
from recommender.api.scopes import Scope
from recommender.history import History
from recommender.history_files import HistoryInUseError
from recommender.scraping import Scraper
from recommender.service import RecommenderSettings, run
from recommender.sources import Objects, in_folder
from recommender.telemetry import Telemetry
from vllm_rightsizer.demo.ports import free_ports


class Elected:
    """Leads when the test says so."""

    shared = True
    trouble: str | None = None

    def __init__(self) -> None:
        self.leads = asyncio.Event()
        self.leads_no_more = asyncio.Event()
        self.is_cleared = True
        self.resigned: list[float] = []

    def begin(self) -> None:
        assert self.is_cleared
        self.is_cleared = False
        self.leads_no_more.clear()
        self.leads.set()

    def end(self) -> None:
        self.leads.clear()
        self.leads_no_more.set()

    def held_seconds(self) -> float:
        return 5.0 if self.leads.is_set() else 0.0

    async def gained(self) -> None:
        await self.leads.wait()

    async def lost(self) -> None:
        await self.leads_no_more.wait()

    def cleared(self) -> None:
        self.is_cleared = True

    def resign(self, seconds: float) -> None:
        self.resigned.append(seconds)
        self.end()


@pytest.fixture
def elected() -> Elected:
    return Elected()


@pytest.fixture
def settings(tmp_path: Path, elected: Elected, monkeypatch: pytest.MonkeyPatch) -> RecommenderSettings:
    [port] = free_ports(1)

    @contextlib.asynccontextmanager
    async def objects(settings: RecommenderSettings, _: Telemetry) -> AsyncIterator[Objects]:
        yield dataclasses.replace(in_folder(settings.objects or tmp_path, Scope.OPT_IN), leadership=elected)

    monkeypatch.setattr(service, "_objects", objects)
    return RecommenderSettings(tmp_path / "objects", tmp_path / "history.db", "127.0.0.1", port)


@contextlib.asynccontextmanager
async def running(settings: RecommenderSettings) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """What it answers on a path, in full."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    address = f"http://127.0.0.1:{settings.port}"
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=60) as client:

        async def answer(path: str) -> str:
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    return (await client.get(path)).text
                await asyncio.sleep(0.01)

        try:
            yield answer
        finally:
            stop.set()
            await asyncio.wait_for(task, 60)


async def until(answer: Callable[[str], Awaitable[str]], text: str) -> str:
    """What readiness says once that stands in it."""
    async with asyncio.timeout(60):
        while text not in (said := await answer("/readyz")):
            await asyncio.sleep(0.02)
    return said


async def test_between_two_terms(settings: RecommenderSettings, elected: Elected) -> None:
    assert settings.objects is not None
    store = FileObjectStore(settings.objects)
    engine = SyntheticEngine()

    def counted() -> int:
        found = recommendation(store)
        return found.status.measured.requests if found and found.status.measured else -1

    with served(lambda: engine.page().encode()) as port:
        for obj in (*cluster_objects(), policy_object(**POLICY), pod_object(port)):
            store.apply(obj)
        async with running(settings) as answer:
            assert await answer("/readyz") == "ok"
            assert not settings.history.exists()
            elected.begin()
            await eventually(lambda: counted() == 0)
            engine.look_up([1, 2], requests=30)
            await eventually(lambda: counted() == 30)
            assert "namespace=" in await answer("/metrics")
            engine.look_up([1, 2], requests=5)

            elected.end()
            await eventually(lambda: elected.is_cleared)
            assert await answer("/readyz") == "ok"
            metrics = await answer("/metrics")
            assert "namespace=" not in metrics
            assert "vllm_rightsizer_recommender_leader 0" in metrics
            # The lock is free.
            History.open(settings.history).close()

            elected.begin()
            await eventually(lambda: counted() == 35)
            assert "vllm_rightsizer_recommender_leader_transitions_total 2" in await answer("/metrics")


async def test_a_history_that_the_former_leader_still_holds(
    settings: RecommenderSettings, elected: Elected, caplog: pytest.LogCaptureFixture
) -> None:
    with History.open(settings.history):
        async with running(settings) as answer:
            elected.begin()
            said = await until(answer, "it is waited for")
            assert f"in use by another recommender (process {os.getpid()} on {socket.gethostname()})" in said
            assert await answer("/healthz") == "ok"
            assert caplog.text.count("it is waited for") == 1
            # A signal ends the waiting.


async def test_a_history_that_nobody_lets_go(
    settings: RecommenderSettings, elected: Elected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_LOCK_SECONDS", 0.05)
    with History.open(settings.history) as held:
        async with running(settings) as answer:
            elected.begin()
            await eventually(lambda: elected.resigned == [10.0])
            await eventually(lambda: elected.is_cleared)
            assert "in use by another recommender" in await answer("/readyz")
            held.close()
            elected.begin()
            await until(answer, "ok")
            assert elected.resigned == [10.0]


async def test_a_round_that_does_not_end_is_broken_off(
    settings: RecommenderSettings, elected: Elected, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a signal; once the lease is lost, at once."""
    assert settings.objects is not None
    monkeypatch.setattr(rounds, "_LAST_ROUND_SECONDS", 0.05)
    # By itself it would not end before the test does.
    monkeypatch.setattr(service, "Scraper", functools.partial(Scraper, deadline_seconds=600))
    store = FileObjectStore(settings.objects)
    asked, over = threading.Event(), threading.Event()

    def page() -> bytes:
        asked.set()
        over.wait(600)
        return b""

    with served(page) as port:
        for obj in (*cluster_objects(), policy_object(**POLICY), pod_object(port)):
            store.apply(obj)
        try:
            async with running(settings):
                elected.begin()
                await eventually(asked.is_set)
                elected.end()
                await eventually(lambda: elected.is_cleared)
                assert "broken off" not in caplog.text
                asked.clear()
                elected.begin()
                await eventually(asked.is_set)
            assert "broken off" in caplog.text
        finally:
            over.set()
    History.open(settings.history).close()


async def test_without_others_it_is_an_error(settings: RecommenderSettings, elected: Elected) -> None:
    elected.shared = False
    elected.begin()
    with History.open(settings.history), pytest.raises(HistoryInUseError, match="give this one a history of its own"):
        await asyncio.wait_for(run(settings, asyncio.Event()), 60)
