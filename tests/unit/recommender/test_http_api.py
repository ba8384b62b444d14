"""The HTTP API, asked over real HTTP of a recommender that runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from synthetic import KEY
from test_explanations import fill, observed

from recommender import http_api
from recommender.api.object_store import FileObjectStore
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import VLLMRecommendation
from recommender.desks import Desk, Leave, StoppedError
from recommender.explanations import explain
from recommender.history import History
from recommender.http_api import ROOT, ApiSources, HttpApi
from recommender.packing_plans import plan_of
from recommender.plan_documents import plan_json
from recommender.prices import Prices
from recommender.service import RecommenderSettings, run
from recommender.trends import CLUSTER, Point
from recommender.what_ifs import Comparison, what_if
from vllm_rightsizer.demo.ports import free_ports

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
LLAMA = f"/namespaces/{KEY.namespace}/workloads/llama"


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a recommender left: objects and a history."""
    folder = tmp_path_factory.mktemp("left")
    fill(folder, observed())
    with History.open(folder / "history.db") as history:
        slot = time.time() // 1800 * 1800
        for age, used in ((40 * 86400, 1), (3600, 5), (1800, 7)):
            history.keep_point(str(KEY), slot - age, Point(used_bytes=used, recommended_bytes=2 * used))
        history.keep_point("chat/Deployment/other/vllm", slot - 1800, Point(used_bytes=10))
        history.keep_point(CLUSTER, slot - 1800, Point(allocatable_bytes=640))
    return folder


@pytest.fixture
def settings(left: Path, tmp_path: Path) -> RecommenderSettings:
    folder = Path(shutil.copytree(left, tmp_path / "left"))
    [port] = free_ports(1)
    return RecommenderSettings(folder / "objects", folder / "history.db", "127.0.0.1", port, api=True)


@contextlib.asynccontextmanager
async def asked(settings: RecommenderSettings, stop: asyncio.Event | None = None) -> AsyncIterator[httpx.AsyncClient]:
    stop = stop or asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    address = f"http://{settings.host}:{settings.port}"
    try:
        async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=60) as client:
            async with asyncio.timeout(60):
                while not task.done() and not await _is_ready(client):
                    await asyncio.sleep(0.02)
            yield client
    finally:
        stop.set()
        await asyncio.wait_for(task, 60)


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def got(client: httpx.AsyncClient, path: str) -> Any:
    answer = await client.get(f"{ROOT}{path}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def test_what_it_answers(settings: RecommenderSettings) -> None:
    store = FileObjectStore(settings.objects or Path())
    async with asked(settings) as client:
        [workload] = (await got(client, "/workloads"))["workloads"]
        assert {name: workload[name] for name in ("namespace", "kind", "name", "container", "paused")} == {
            "namespace": KEY.namespace,
            "kind": "Deployment",
            "name": "llama",
            "container": "vllm",
            "paused": False,
        }
        [raw] = store.list(VLLMRecommendation.KIND)
        for part in ("measured", "target", "savings", "conditions", "coverage"):
            assert workload[part] == raw["status"][part]
        assert workload["recommendation"] == raw["metadata"]["name"]
        assert (await got(client, f"/workloads?namespace={KEY.namespace}"))["workloads"] == [workload]
        assert await got(client, "/workloads?namespace=elsewhere") == {"workloads": []}

        explained = explain(store, settings.history, KEY.namespace, "llama").to_json()
        assert await got(client, LLAMA) == json.loads(json.dumps(explained))
        assert await got(client, f"/namespaces/{KEY.namespace}/workloads/{workload['recommendation']}") == explained

        bolder = list(what_if(store, settings.history, _bolder))
        for scope in ("", f"&namespace={KEY.namespace}", "&workload=llama"):
            answer = await got(client, f"/what-if?set=percentile=80&set=hitRateLoss.points=5{scope}")
            assert answer == [one.to_json() for one in bolder]
        assert await got(client, "/what-if?set=percentile=80&namespace=elsewhere") == []

        trend = await got(client, f"{LLAMA}/trend")
        assert [(point["usedBytes"], point["recommendedBytes"]) for point in trend["points"][:2]] == [(5, 10), (7, 14)]
        [together] = [one for one in (await got(client, "/trend?days=1"))["points"] if one.get("usedBytes") == 17]
        assert (together["allocatableBytes"], together["recommendedBytes"]) == (640, 14)
        assert trend["slotSeconds"] == 1800


def _bolder(own: PolicySpec) -> PolicySpec:
    return own.model_copy(
        update={"percentile": 80, "hit_rate_loss": own.hit_rate_loss.model_copy(update={"points": 5.0})}
    )


async def test_the_plan(settings: RecommenderSettings, tmp_path: Path) -> None:
    objects = Path(shutil.copytree(EXAMPLES / "cluster", tmp_path / "cluster"))
    async with asked(replace(settings, objects=objects)) as client:
        found = await got(client, "/plan")
        assert found == plan_json(plan_of(FileObjectStore(objects), Prices()))
    assert found["stocks"][0]["gpus"] == 9


MISTAKES = [
    ("/nothing", 404, "/api/v1/openapi.json"),
    ("/namespaces/chat/workloads/mistral", 404, "it has: llama"),
    ("/namespaces/chat/workloads/mistral/trend", 404, "it has: llama"),
    ("/namespaces/chat/workloads/twice", 409, "twice has several recommendations: name one of a-1, a-2"),
    ("/workloads?namespce=chat", 400, "namespce: Extra inputs are not permitted"),
    ("/plan?namespace=chat", 400, "namespace: Extra inputs"),
    ("/trend?days=31", 400, "days: Input should be less than or equal to 30"),
    ("/trend?days=many", 400, "days: Input should be a valid number"),
    ("/what-if", 400, "policy=NAME, or set=FIELD=VALUE"),
    ("/what-if?policy=bolder", 400, "there is no VLLMPolicy bolder; there is: default"),
    ("/what-if?set=percentile", 400, "is no FIELD=VALUE"),
    ("/what-if?set=percentile=97", 400, "set percentile: "),
    ("/what-if?set=demandMarginPercent=1e999", 400, "set demandMarginPercent: Input should be a finite number"),
    ("/what-if?set=demandMarginPercent=" + "[" * 5000, 400, "set demandMarginPercent: "),
    ("/what-if?set=percentile.of=9", 400, "percentile has no fields of its own"),
    ("/what-if?set=percentile=80&workload=nobody", 404, "workload called nobody"),
    ("/what-if?" + "&".join(["set=percentile=80"] * 65), 400, "set: "),
]


async def test_errors_say_what_was_wrong(settings: RecommenderSettings) -> None:
    store = FileObjectStore(settings.objects or Path())
    for name in ("a-1", "a-2"):
        reference = {"group": "apps", "kind": "Deployment", "name": "twice", "container": name}
        metadata = {"name": name, "namespace": KEY.namespace}
        store.apply({"kind": VLLMRecommendation.KIND, "metadata": metadata, "spec": {"targetRef": reference}})
    async with asked(settings) as client:
        for path, status, said in MISTAKES:
            problem = problem_of(await client.get(f"{ROOT}{path}"), status)
            assert said in problem["detail"], path
        assert "use GET" in problem_of(await client.post(f"{ROOT}/workloads"), 405)["detail"]
        documented = await got(client, "/openapi.json")
        assert documented["paths"].keys() >= {"/workloads", "/what-if", "/plan", "/trend"}
        assert documented["servers"] == [{"url": ROOT}]
        settings.history.rename(settings.history.with_name("away.db"))
        answer = await client.get(f"{ROOT}{LLAMA}")
        assert "there is no history at" in problem_of(answer, 503)["detail"]
        assert answer.headers["retry-after"] == "5"


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    return problem


async def test_a_long_question_holds_up_neither_probes_nor_others(
    settings: RecommenderSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), asyncio.Event()

    def endless(*_: object) -> Iterator[Comparison]:
        begun.set()
        while True:
            time.sleep(0.01)
            yield Comparison(KEY, 0, 0, 0, None, None)

    monkeypatch.setattr(http_api, "comparisons", endless)
    question = f"{ROOT}/what-if?set=percentile=80"
    async with asked(settings, ended) as client:
        first = asyncio.create_task(client.get(question))
        assert await asyncio.to_thread(begun.wait, 60)
        for path in ("/healthz", "/readyz", "/metrics", f"{ROOT}{LLAMA}"):
            assert (await client.get(path)).status_code == 200, path
        refused = await client.get(question)
        assert "one question at a time" in problem_of(refused, 429)["detail"]
        assert refused.headers["retry-after"] == "5"
        first.cancel()
        # Nobody waits for it any more: it is given up, and the next one has its turn.
        async with asyncio.timeout(60):
            while (await client.get(f"{ROOT}/trend")).status_code == 429:
                await asyncio.sleep(0.05)
        # What is still asked when the recommender is told to end does not hold it up.
        begun.clear()
        last = asyncio.create_task(client.get(question))
        assert await asyncio.to_thread(begun.wait, 60)
        ended.set()
        assert "ask again" in problem_of(await last, 503)["detail"]


async def test_it_is_there_only_where_it_is_asked_for(settings: RecommenderSettings) -> None:
    async with asked(replace(settings, api=False)) as client:
        assert (await client.get(f"{ROOT}/workloads")).status_code == 404


async def test_where_another_one_answers(settings: RecommenderSettings) -> None:
    closed = "recommender-1 is at work: ask that one"
    api = HttpApi(ApiSources(FileObjectStore(settings.objects or Path()), settings.history, closed=lambda: closed))
    transport = httpx.ASGITransport(api.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        for path in ("/workloads", "/plan", "/trend", LLAMA, f"{LLAMA}/trend", "/what-if?set=percentile=80"):
            assert problem_of(await client.get(path), 503)["detail"] == closed
    api.close()


async def test_a_desk_that_is_left_in_time() -> None:
    """Whatever takes too long is given up between two of its steps."""

    async def wanted() -> bool:
        return True

    def endless(leave: Leave) -> None:
        while True:
            leave.check()

    desk = Desk("test", waiting=0, seconds=0.02)
    with pytest.raises(StoppedError) as stopped:
        await desk.do(endless, wanted)
    assert stopped.value.late
    desk.seconds = 60
    assert await desk.do(lambda _: 1, wanted) == 1
    desk.close()


async def test_a_desk_that_is_closed_while_somebody_waits_for_a_turn() -> None:
    async def wanted() -> bool:
        return True

    begun, free = threading.Event(), threading.Event()

    def slow(_: Leave) -> None:
        begun.set()
        free.wait(60)

    desk = Desk("test", waiting=1, seconds=60)
    first = asyncio.create_task(desk.do(slow, wanted))
    assert await asyncio.to_thread(begun.wait, 60)
    second = asyncio.create_task(desk.do(slow, wanted))
    await asyncio.sleep(0)
    desk.close()
    with pytest.raises(StoppedError, match="not wanted"):
        await second
    free.set()
    await first
    with pytest.raises(StoppedError, match="not wanted"):
        await desk.do(slow, wanted)
