"""The whole recommender, against a real page over HTTP: objects in, a recommendation out."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import random
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender.api.listening import ListenError
from recommender.api.object_store import FileObjectStore
from recommender.api.plugin_wheel import plugin_map_name
from recommender.api.recommendations import RECOMMENDED, VLLMRecommendation
from recommender.api.scopes import Scope
from recommender.api.workloads import recommendation_name
from recommender.explanations import explain
from recommender.history import History
from recommender.recommending import Recommender, scrape_period
from recommender.rounds import Rounds, _size
from recommender.scraping import Scraper
from recommender.service import RecommenderSettings, run
from recommender.sources import in_folder
from recommender.telemetry import Telemetry
from vllm_rightsizer.demo.ports import free_ports

POLICY = {"observationWindow": "24s", "windowCoverage": 5, "minRequests": 100}


@contextlib.asynccontextmanager
async def running(settings: RecommenderSettings) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


def recommendation(store: FileObjectStore) -> VLLMRecommendation | None:
    raw = store.get("VLLMRecommendation", KEY.namespace, recommendation_name(KEY.workload, KEY.container))
    return VLLMRecommendation.from_json(raw) if raw else None


async def eventually(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not found():
            await asyncio.sleep(0.05)


def is_true(store: FileObjectStore, condition: str) -> bool:
    found = recommendation(store)
    verdict = found.condition(condition) if found else None
    return verdict is not None and verdict.status == "True"


@pytest.fixture
def settings(tmp_path: Path) -> RecommenderSettings:
    [port] = free_ports(1)
    return RecommenderSettings(tmp_path / "objects", tmp_path / "history.db", "127.0.0.1", port)


async def test_from_a_pods_page_to_a_recommendation_and_its_explanation(settings: RecommenderSettings) -> None:
    store = FileObjectStore(settings.objects)
    engine = SyntheticEngine(demand_blocks=300, active_blocks=200)
    draw = random.Random(1)
    with served(lambda: engine.page().encode()) as port:
        for obj in (*cluster_objects(), policy_object(**POLICY), pod_object(port)):
            store.apply(obj)
        async with running(settings):
            await eventually(lambda: recommendation(store) is not None)
            waiting = recommendation(store)
            assert waiting is not None
            assert waiting.status.target is None
            assert waiting.status.measured is not None
            for _ in range(6):
                # Nothing comes back from deeper than 1,200 blocks.
                engine.look_up([draw.randrange(1200) for _ in range(800)] + [None] * 200, requests=50)
                await asyncio.sleep(0.25)
            await eventually(lambda: is_true(store, RECOMMENDED))
            probe = f"http://127.0.0.1:{settings.port}"
            async with httpx.AsyncClient(timeout=60) as client:
                assert (await client.get(f"{probe}/healthz")).status_code == 200
                assert (await client.get(f"{probe}/readyz")).status_code == 200
                assert "vllm_rightsizer_recommender_scrapes_total" in (await client.get(f"{probe}/metrics")).text
            explained = explain(store, settings.history, KEY.namespace, KEY.workload.name)
    found = recommendation(store)
    assert found is not None
    target = found.status.target
    assert target is not None
    assert 1000 < target.kv_blocks < 1350
    assert target.flags[1] == f"--kv-cache-memory-bytes={target.kv_bytes}"
    # The first answer came from the first seconds; a smaller one by less than a tenth does not replace it.
    assert target.bound_by in ("hitRate", "hysteresis")
    assert explained.decided_by in ("hitRate", "hysteresis")
    assert explained.to_json()["intervals"]
    assert explained.changes[0].reason == "Recommended"
    assert explained.changes[-1].kv_bytes == explained.recommendation.status.target.kv_bytes
    assert store.get("ConfigMap", KEY.namespace, plugin_map_name()) is not None


async def test_a_port_in_use_is_said_in_one_line(settings: RecommenderSettings) -> None:
    with socket.create_server((settings.host, settings.port)), pytest.raises(ListenError, match="--port"):
        await run(settings, asyncio.Event())


async def test_an_invalid_policy_is_said_and_the_last_valid_one_goes_on(settings: RecommenderSettings) -> None:
    """Also across a restart of the recommender."""
    store = FileObjectStore(settings.objects)
    engine = SyntheticEngine()
    with served(lambda: engine.page().encode()) as port:
        for obj in (*cluster_objects(), policy_object(**POLICY), pod_object(port)):
            store.apply(obj)
        async with running(settings):
            await eventually(lambda: reason(store, RECOMMENDED) == "InsufficientData")
        store.apply(policy_object(observationWindow="two days"))
        async with running(settings):
            await eventually(lambda: "two days" in message(store, RECOMMENDED))
            assert window_of(store) == 24.0
            store.delete("VLLMPolicy", None, "default")
            await eventually(lambda: reason(store, RECOMMENDED) == "PolicyNotFound")
            store.apply(policy_object(**POLICY))
            await eventually(lambda: reason(store, RECOMMENDED) == "InsufficientData")


def window_of(store: FileObjectStore) -> float | None:
    found = recommendation(store)
    return found.status.coverage.window_seconds if found and found.status.coverage else None


def reason(store: FileObjectStore, type_: str) -> str:
    found = recommendation(store)
    condition = found.condition(type_) if found else None
    return condition.reason if condition else ""


def message(store: FileObjectStore, type_: str) -> str:
    found = recommendation(store)
    condition = found.condition(type_) if found else None
    return condition.message if condition else ""


async def test_a_history_that_is_spoilt_while_it_is_used(settings: RecommenderSettings) -> None:
    store = FileObjectStore(settings.objects)
    engine = SyntheticEngine()
    with served(lambda: engine.page().encode()) as port:
        for obj in (*cluster_objects(), policy_object(**POLICY), pod_object(port)):
            store.apply(obj)
        async with running(settings):
            await eventually(settings.history.exists)
            await eventually(lambda: stored_intervals(settings.history) > 0)
            with contextlib.closing(sqlite3.connect(settings.history)) as vandal:
                vandal.execute("UPDATE observed SET content = x'00'")
                vandal.commit()
            await eventually(lambda: any(settings.history.parent.glob("*.unreadable-*")))
            await eventually(lambda: reason(store, RECOMMENDED) == "InsufficientData")
            async with httpx.AsyncClient(timeout=60) as client:
                probe = f"http://{settings.host}:{settings.port}/readyz"
                async with asyncio.timeout(60):
                    while (await client.get(probe)).status_code != 200:
                        await asyncio.sleep(0.05)


def stored_intervals(history: Path) -> int:
    """None, too, while the file is there and its tables are not yet."""
    with contextlib.closing(sqlite3.connect(history)) as reader:
        if not reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'observed'").fetchone():
            return 0
        found = reader.execute("SELECT count(*) FROM observed").fetchone()[0]
    return int(found)


async def test_counting_goes_on_after_a_restart(settings: RecommenderSettings) -> None:
    store = FileObjectStore(settings.objects)
    engine = SyntheticEngine()
    with served(lambda: engine.page().encode()) as port:
        for obj in (*cluster_objects(), policy_object(**POLICY), pod_object(port)):
            store.apply(obj)

        def counted() -> int:
            found = recommendation(store)
            return found.status.measured.requests if found and found.status.measured else -1

        async with running(settings):
            await eventually(lambda: counted() == 0)
            engine.look_up([1, 2], requests=30)
            await eventually(lambda: counted() == 30)
        engine.look_up([1, 2], requests=12)
        async with running(settings):
            await eventually(lambda: counted() == 42)


@pytest.mark.parametrize(
    ("windows", "expected"), [([], 30.0), ([172800.0], 30.0), ([172800.0, 300.0], 1.5625), ([1.0], 0.5)]
)
def test_the_period_follows_the_smallest_window(windows: list[float], expected: float) -> None:
    assert scrape_period(windows) == expected


async def test_pods_that_do_not_answer_are_no_reason_to_start_anew(settings: RecommenderSettings) -> None:
    """However many there are: each is waited for, and the next process would wait as long."""
    store = FileObjectStore(settings.objects or settings.history.parent)
    with History.open(settings.history) as history:
        async with Scraper(deadline_seconds=60) as scraper:
            recommender = Recommender(store, history, scraper, Telemetry())
            rounds = Rounds(recommender, in_folder(store.folder, Scope.OPT_IN), Telemetry(), settings.history)
            rounds._ended -= 300
            assert rounds.alive() is not None
            recommender.longest_look = 2 * scraper.longest(20_000)
            assert rounds.alive() is None
            rounds._ended -= 300
            assert "no round of scrapes ended in the last 600 s" in str(rounds.alive())


def test_a_size_that_cannot_be_asked_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert _size(tmp_path / "file") == 5
    assert _size(tmp_path / "file" / "history.db") == 0


async def test_without_the_api_server_it_waits(settings: RecommenderSettings, tmp_path: Path) -> None:
    """Not ready, and well: another process could do no more. It also stops while it waits."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config = tmp_path / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{nobody.getsockname()[1]}"}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        user = {"name": "u", "user": {"token": "t"}}
        config.write_text(json.dumps({"clusters": [cluster], "users": [user], "contexts": [context]}))
        in_cluster = dataclasses.replace(settings, objects=None, kubeconfig=config, context="x")
        async with running(in_cluster), httpx.AsyncClient(timeout=60) as client:
            probe = f"http://{settings.host}:{settings.port}"
            assert (await client.get(f"{probe}/healthz")).status_code == 200
            answer = await client.get(f"{probe}/readyz")
            assert answer.status_code == 503
            assert "not read yet: pods, namespaces" in answer.text
